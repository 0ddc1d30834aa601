"""SHA-256 of the files of a folder, in a checksummed JSON file that is written last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, MissingError
from cache.fingerprint import sha256, sha256_bytes

FORMAT = 1
CHECKSUMS = "checksums.json"
"""File name of the list in a folder that has its own."""


@dataclass(frozen=True)
class Checksums:
    """SHA-256 of files by their names below a folder, and the facts they were made from."""

    path: Path
    sha256: dict[str, str]
    facts: dict[str, Any]
    remedy: str
    """Command that makes the files again, for error messages."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            MissingError: the file does not exist.
            DamagedError: its hash differs from the list, or the name is not listed.
        """
        path = self.path.parent / name
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path}: missing, though {self.path.name} lists it. {self.remedy}") from None
        self._check(path, name, sha256_bytes(data))
        return data

    def verify(self, name: str) -> None:
        """Check a file without reading it into memory; raises as `read` does."""
        path = self.path.parent / name
        if not path.is_file():
            raise MissingError(f"{path}: missing, though {self.path.name} lists it. {self.remedy}")
        self._check(path, name, sha256(path))

    def faults(self) -> Iterator[str]:
        """Yield one line for each file that is missing or damaged."""
        for name in self.sha256:
            try:
                self.verify(name)
            except (MissingError, DamagedError) as error:
                yield str(error)

    def _check(self, path: Path, name: str, digest: str) -> None:
        expected = self.sha256.get(name, "")
        if digest != expected:
            listed = f"{self.path.name} says {expected[:12]}" if expected else f"{self.path.name} does not list it"
            raise DamagedError(f"{path}: damaged: SHA-256 {digest[:12]}, {listed}. {self.remedy}")


def write_checksums(path: Path, names: Iterable[str], facts: Mapping[str, Any] | None = None) -> None:
    """Write the hashes of files in or below the folder of `path`, and the facts they were made from."""
    files = {name: sha256(path.parent / name) for name in sorted(names)}
    write_checksummed_json(path, {"format": FORMAT, "files": files, "facts": dict(facts or {})})


def list_files(folder: Path, facts: Mapping[str, Any], name: str = CHECKSUMS) -> None:
    """Write the hashes of all files in and below a folder."""
    write_checksums(
        folder / name, [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()], facts
    )


def read_checksums(path: Path, remedy: str) -> Checksums:
    """Read a list of hashes, and check its own checksum.

    Raises:
        MissingError: there is no list.
        DamagedError: it was changed after it was written, or has another format.
    """
    value = read_checksummed_json(path)
    files, facts = value.get("files"), value.get("facts")
    if value.get("format") != FORMAT or not isinstance(files, dict) or not isinstance(facts, dict):
        raise DamagedError(f"{path}: not a list of files that this version writes. {remedy}")
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in files):
        raise DamagedError(f"{path}: names files outside of its folder. {remedy}")
    return Checksums(path, files, facts, remedy)
