"""The embedding cache: files that are absent or whole, and know what made them."""
