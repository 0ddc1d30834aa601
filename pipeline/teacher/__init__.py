"""The CLIP teacher: the one door to open_clip weights, and shut after `embed`."""
