"""Target spaces: moments of the embeddings, the affine maps fitted from them, and what they cost."""
