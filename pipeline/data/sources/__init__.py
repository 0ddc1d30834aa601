"""Image and caption sources that the `index` and `pack` stages read."""
