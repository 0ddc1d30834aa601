"""Text and figures of `compare`."""
