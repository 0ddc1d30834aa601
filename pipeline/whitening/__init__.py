"""Target spaces: moments of the embeddings and the transforms fitted on them."""
