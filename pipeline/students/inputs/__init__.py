"""Training inputs: splits, pixels, targets and batches."""
