"""Relation scorers: choices between captions, dense maps of words and patches, and their fitting."""
