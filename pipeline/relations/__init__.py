"""Scorers that see which thing is where: choices between captions, maps of words against patches, their fitting."""
