"""Object storage: names, the one door to fsspec, finished shards that are shared, and who may write them."""
