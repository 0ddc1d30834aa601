"""Everything that can go wrong with a cache.

CacheError
├── MissingError      a file or a shard that should be there is not
├── DamagedError      a file is not what was written: hash, size, shape or structure
├── StaleError        a file was made from other inputs than the ones at hand
├── WriteError        the disk is full, or the folder cannot be written
└── LockedError       someone else holds the store
"""

from __future__ import annotations


class CacheError(Exception):
    """Anything wrong with a cache: the message says what, where, and what to do next."""


class MissingError(CacheError):
    """A file or a shard that should be there is not."""


class DamagedError(CacheError):
    """A file is not what was written: its hash, size, shape or structure differs."""


class StaleError(CacheError):
    """A file was made from other inputs than the ones at hand."""


class WriteError(CacheError):
    """Writing failed: the disk is full, or the folder cannot be written."""


class LockedError(CacheError):
    """Someone else holds the store."""
