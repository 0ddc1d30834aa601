"""Plots, text and pages of the report."""
