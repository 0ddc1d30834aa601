"""Import and export of embeddings for other tools."""
