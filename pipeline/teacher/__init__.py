"""The CLIP teacher. The only package that loads open_clip weights; not used after `embed`."""
