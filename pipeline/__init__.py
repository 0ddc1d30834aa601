"""The pipeline stages, one module each, and the packages that they use."""

__version__ = "0.2.0"
