"""What the stages will cost: counted from the params and the source, measured on a few batches."""
