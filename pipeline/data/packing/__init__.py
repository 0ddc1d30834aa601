"""Packed splits: reproducible tar shards of images and captions."""
