"""Shards of embeddings that machines share through object storage: fetched before they are made, put when they are."""

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
"""The folder below the URL in which the manifests of finished splits stand."""


@contextmanager
def share_parts(parts: Sequence[PartBuild], remote: RemoteStore | None, share: ShardAssignment) -> Iterator[None]:
    """Fetch what other machines have made, and be the only one, or the only one of this rank, to make the rest.

    Whoever lacks nothing holds no lock: readers are never refused.

    Raises:
        LockedError: another machine makes the same.
        StaleError: it was begun here and there with different batch sizes.
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
        fetch_parts(lacking, remote)  # once more: others may have finished some before they let go of the lock
        yield


def fetch_parts(parts: Sequence[PartBuild], remote: RemoteStore) -> None:
    """Bring the finished shards that parts lack to this machine; raises as `share_parts` does."""
    for part in parts:
        _adopt_build_info(part, remote)
        there = set(remote.names(part.folder.name))
        for number in part.lacking_shards():
            if (name := shard_name(number)) in there:
                remote.fetch(part.folder.name, name, part.folder)


def settle_batch_size(parts: Sequence[PartBuild], remote: RemoteStore | None, batch: int) -> int:
    """Return the batch size with which all machines make these parts: the first that was noted."""
    if remote is None or not any(part.lacking_shards() for part in parts):
        return batch
    for part in parts:
        remote.settle(part.folder.name, part.folder / BUILD_INFO)
    return int(read_checksummed_json(parts[0].folder / BUILD_INFO)["batch"])


def put_parts(parts: Sequence[PartBuild], remote: RemoteStore) -> None:
    """Put the finished shards that are not there yet, as those that were made before a URL was named."""
    for part in parts:
        there = set(remote.names(part.folder.name))
        for number in part.finished_shards():
            if shard_name(number) not in there:
                remote.put(part.folder.name, part.folder / shard_name(number))


def put_manifests(split: str, files: Mapping[str, Path], remote: RemoteStore) -> None:
    """Put what stands beside the shards of a finished split, the manifest last."""
    others = [name for name in files if not name.endswith(".h5")]
    for name in sorted(others, key=lambda name: (name.endswith("manifest.json"), name.count("/") == 0, name)):
        folder = f"{EMBEDDINGS}/{split}/{name}".rpartition("/")[0]
        remote.put(folder, files[name])


def _adopt_build_info(part: PartBuild, remote: RemoteStore) -> None:
    """Take over what another machine has noted about a part; refuse to mix shards of two batch sizes."""
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
