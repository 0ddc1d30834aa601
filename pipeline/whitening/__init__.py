"""Target spaces: moments of the embeddings, the affine maps fitted to them, and diagnostics."""
