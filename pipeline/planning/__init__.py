"""Cost estimates of the stages, from counts and a few measured batches."""
