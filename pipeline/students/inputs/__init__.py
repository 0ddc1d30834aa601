"""What students learn from: splits, pixels, targets and batches."""
