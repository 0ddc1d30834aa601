"""Plots and the page that they stand on."""
