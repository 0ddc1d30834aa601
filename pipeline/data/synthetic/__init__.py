"""The synthetic sample: rendered scenes, captions and badges."""
