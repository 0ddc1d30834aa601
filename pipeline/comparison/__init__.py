"""Fair comparisons of training arms over seeds."""
