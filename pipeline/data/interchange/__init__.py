"""Embeddings that come from, or go to, other tools."""
