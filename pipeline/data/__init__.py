"""Input data: sources, packed samples, decoded images and views."""
