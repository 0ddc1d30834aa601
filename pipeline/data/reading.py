"""What every source can do: list itself, plan its samples, load one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.images import BadImageError
from pipeline.data.listing import Entry, Listing, Member, Plan
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.params import Section


@dataclass(frozen=True)
class Loaded:
    """A sample's bytes or pixels, with what is said about it."""

    image: bytes | np.ndarray
    captions: tuple[str, ...] = ()
    label: int | None = None


class Source(Section):
    """Where a split comes from. `key` is the parameter it stands under, for messages."""

    def listing(self, key: str) -> Listing:
        """Return what lies on the disk now; raises UsageError where that cannot be a split."""
        raise NotImplementedError

    def plan(self, listing: Listing) -> Plan:
        """Return every sample that was listed; nothing is read of the images."""
        raise NotImplementedError

    def load(self, entry: Entry) -> Loaded:
        """Read one sample; raises BadImageError where its file refuses, PipelineError where it has changed."""
        raise NotImplementedError


def read_member(folder: Path, member: Member) -> bytes:
    """Return a member's bytes.

    Raises:
        BadImageError: the file cannot be read.
        PipelineError: it is gone, or another size than was listed.
    """
    path = folder / member.file
    try:
        with path.open("rb") as file:
            if member.offset:
                file.seek(member.offset)
            data = file.read(member.size + 1) if not member.offset else file.read(member.size)
    except FileNotFoundError:
        raise PipelineError(f"{path}: gone since it was listed. Run `index` again.") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from None
    if len(data) != member.size:
        raise PipelineError(f"{path}: another size than the {member.size} bytes listed. Run `index` again.")
    return data


def read_json(path: Path, key: str) -> tuple[Any, str]:
    """Return a JSON file's value and its SHA-256.

    Raises:
        UsageError: no such file, or not JSON; names the parameter `key`.
    """
    data = read_document(path, key)
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"params: '{key}': {path}: not JSON: {error}") from None


def read_document(path: Path, key: str) -> bytes:
    """Return a small file that decides a lot, such as captions or class names.

    Raises:
        UsageError: it cannot be read; names the parameter `key`.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"params: '{key}': no file {path}") from None
    except OSError as error:
        raise UsageError(f"params: '{key}': {path}: cannot be read: {error.strerror}") from None


def refuse_missing(named: dict[str, int], wanted: list[str], folder: Path, captions: Path, key: str) -> None:
    """Refuse captions of images that are not there.

    Raises:
        UsageError: how many are missing, and the first of them.
    """
    missing = [name for name in wanted if name not in named]
    if missing:
        raise UsageError(
            f"params: '{key}': {captions} names {len(wanted)} images, and {len(missing)} of them are not in {folder}, "
            f"the first: {missing[0]!r}. Is this the folder that belongs to these captions?"
        )
