"""Controlled comparisons of training arms over seeds."""
