"""Text and figures of `audit`."""
