"""Exceptions of the cache.

CacheError
├── MissingError      a file or a shard does not exist
├── DamagedError      a file changed: hash, size, shape or structure differ
├── StaleError        a file was made from other inputs than the present ones
├── WriteError        the disk is full, or the folder cannot be written
└── LockedError       another process holds the store
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of all errors of the cache: the message says what, where, and what to do next."""


class MissingError(CacheError):
    """A file or a shard does not exist."""


class DamagedError(CacheError):
    """A file differs from the one that was written: its hash, size, shape or structure."""


class StaleError(CacheError):
    """A file was made from other inputs than the present ones."""


class WriteError(CacheError):
    """Writing failed: the disk is full, or the folder cannot be written."""


class LockedError(CacheError):
    """Another process holds the store."""
