"""The embedding cache: files that are complete or absent, with checksums and provenance."""
