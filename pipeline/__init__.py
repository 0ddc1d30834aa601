"""The eight pipeline stages and, one folder down, the parts that they use."""

__version__ = "0.2.0"
