"""Take a few samples out of a packed split, without reading the others."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable

from cache.errors import DamagedError, MissingError
from pipeline.data.samples import Packed, Sample


def read_chosen(packed: Packed, keys: Iterable[str]) -> dict[str, Sample]:
    """Return the samples of some keys; keys that the split does not have are left out.

    Shards are not hashed: what is shown is decoded anyway, and what is measured is read by `Packed.read`.

    Raises:
        MissingError: a shard is not there.
        DamagedError: a shard is no tar, or a sample in it is incomplete.
    """
    left: set[str] = set(keys)
    found: dict[str, Sample] = {}
    for shard in packed.shards:
        if not left:
            break
        path = packed.folder / shard.name
        try:
            with tarfile.open(path, "r:") as tar:
                members = {member.name: member for member in tar if member.name.rpartition(".")[0] in left}
                data = {name: _read(tar, member) for name, member in members.items()}
                here = [_sample(name, image, data) for name, image in data.items() if not name.endswith(".json")]
        except FileNotFoundError:
            raise MissingError(f"{path}: no such shard. Run `pack` again.") from None
        except (tarfile.TarError, ValueError, KeyError) as error:
            raise DamagedError(f"{path}: not a packed shard ({error}). Run `pack` again.") from None
        found |= {sample.key: sample for sample in here}
        left -= found.keys()
    return found


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()


def _sample(name: str, image: bytes, data: dict[str, bytes]) -> Sample:
    key, _, extension = name.rpartition(".")
    about = json.loads(data[f"{key}.json"])
    return Sample(key, image, extension, tuple(about["captions"] or ()), about.get("label"), about["source"])
