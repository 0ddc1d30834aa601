"""Object storage: paths, access through fsspec, sharing of finished shards, and locks."""
