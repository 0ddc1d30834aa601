"""Share shards of embeddings between machines through object storage: download before, upload after making them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache.atomic import link_or_copy, read_checksummed_json
from cache.errors import StaleError
from cache.manifest import shard_name
from pipeline.project.remote.lock import ALONE, remote_lock
from pipeline.project.remote.store import RemoteStore
from pipeline.teacher.parts import BUILD_INFO, PartBuild
from pipeline.teacher.sharding import ShardAssignment

EMBEDDINGS = "embeddings"
"""Folder below the URL with the manifests of finished splits."""


@contextmanager
def share_parts(parts: Sequence[PartBuild], remote: RemoteStore | None, share: ShardAssignment) -> Iterator[None]:
    """Download the shards of other machines, and lock the rest for this machine or this rank.

    A complete reader needs no lock and is never refused.

    Raises:
        LockedError: another machine makes the same.
        StaleError: machines began it with different batch sizes.
        RemoteError: object storage denies access, or does not answer.
    """
    if remote is None:
        yield
        return
    fetch_parts(parts, remote)
    with ExitStack() as locks:
        lacking = [part for part in parts if part.lacking_shards()]
        for part in lacking:
            holder = ALONE if share.is_single else f"rank-{share.rank}"
            locks.enter_context(remote_lock(remote.root, part.folder.name, holder))
        fetch_parts(lacking, remote)  # again: others may have finished some before they released the lock
        yield


def fetch_parts(parts: Sequence[PartBuild], remote: RemoteStore) -> None:
    """Download the missing finished shards of parts; raises as `share_parts`."""
    for part in parts:
        _adopt_build_info(part, remote)
        there = set(remote.names(part.folder.name))
        for number in part.lacking_shards():
            if (name := shard_name(number)) in there:
                remote.fetch(part.folder.name, name, part.folder)


def settle_batch_size(parts: Sequence[PartBuild], remote: RemoteStore | None, batch: int) -> int:
    """Return the batch size that all machines use for these parts: the first recorded one."""
    if remote is None or not any(part.lacking_shards() for part in parts):
        return batch
    for part in parts:
        remote.settle(part.folder.name, part.folder / BUILD_INFO)
    return int(read_checksummed_json(parts[0].folder / BUILD_INFO)["batch"])


def put_parts(parts: Sequence[PartBuild], remote: RemoteStore) -> None:
    """Upload the finished shards that are missing there, such as those made before a URL was configured."""
    for part in parts:
        there = set(remote.names(part.folder.name))
        for number in part.finished_shards():
            if shard_name(number) not in there:
                remote.put(part.folder.name, part.folder / shard_name(number))


def put_manifests(split: str, files: Mapping[str, Path], remote: RemoteStore) -> None:
    """Upload the metadata of a finished split, the manifest last."""
    others = [name for name in files if not name.endswith(".h5")]
    for name in sorted(others, key=lambda name: (name.endswith("manifest.json"), name.count("/") == 0, name)):
        folder = f"{EMBEDDINGS}/{split}/{name}".rpartition("/")[0]
        remote.put(folder, files[name])


def _adopt_build_info(part: PartBuild, remote: RemoteStore) -> None:
    """Download the build record of another machine; refuse to mix shards of two batch sizes."""
    path, there = part.folder / BUILD_INFO, part.folder / f"{remote.root.name}-{BUILD_INFO}"
    if not remote.adopt(part.folder.name, BUILD_INFO, there):
        return
    here = read_checksummed_json(path)["batch"] if path.exists() and part.finished_shards() else None
    if here not in (None, batch := read_checksummed_json(there)["batch"]):
        raise StaleError(
            f"{part.folder}: begun with batches of {here}, and at {remote.root} with {batch}: their embeddings differ "
            "in the last bits. Move this folder away, and what is there is fetched."
        )
    link_or_copy(there, path)
    there.unlink()
