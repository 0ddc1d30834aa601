"""CIFAR-10 and CIFAR-100 as downloaded: pickles, of which only numpy arrays are accepted."""

from __future__ import annotations

import io
import pickle
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8

from pipeline.data.sources.base import FolderSource, LoadedSample
from pipeline.data.sources.class_names import CIFAR10, load_templates
from pipeline.data.sources.listing import Entry, FileSpan, Listing, SamplePlan, scan
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.input_files import MAX_IMAGE_BYTES, read_input
from pipeline.project.remote.paths import Location, RemotePath

_SIDE = 32
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_ALLOWED = {
    (module, name)
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "ndarray", "dtype")
} | {("_codecs", "encode")}
"""Pickle names needed to build arrays, each mapped to a restricted replacement."""


class Cifar(FolderSource):
    """`cifar-10-batches-py/` or `cifar-100-python/`, unpacked; a zero-shot set with its own class names."""

    source: Literal["cifar"]
    images: Location
    part: Literal["train", "test"] = "test"
    templates: str | tuple[str, ...] = "cifar10"

    @property
    def folder(self) -> Path | RemotePath:
        """The unpacked folder."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List the batches."""
        if isinstance(self.images, Path) and not self.images.is_dir():
            hint = " (unpack it: tar xzf)" if self.images.name.endswith((".tar.gz", ".tgz")) else ""
            raise UsageError(f"params: '{key}.images': no folder {self.images}{hint}")
        sizes = dict(scan(self.images, f"{key}.images"))
        names = (self.part,) if "meta" in sizes else _BATCHES[self.part]
        if missing := [name for name in names if name not in sizes]:
            raise UsageError(f"params: '{key}.images': {self.images} is no CIFAR as downloaded: it has no {missing[0]}")
        files = tuple((name, sizes[name]) for name in names)
        templates, documents = load_templates(self.templates, f"{key}.templates")
        return Listing(files, documents, self._classes() if "meta" in sizes else CIFAR10, templates)

    def plan(self, listing: Listing) -> SamplePlan:
        """Number the rows of every batch."""
        entries = []
        for name, size in listing.files:
            batch = _read_batch(self.images / name)
            for row in range(len(batch.pixels)):
                key = f"{name}/{row:05d}"
                entries.append(Entry(key, key, (FileSpan(name, "", 0, size),), number=row))
        return SamplePlan(tuple(entries))

    def load(self, entry: Entry) -> LoadedSample:
        """Return one row as an image."""
        batch = _read_batch(self.images / entry.members[0].file)
        planes = batch.pixels[entry.number].reshape(3, _SIDE, _SIDE)
        return LoadedSample(np.ascontiguousarray(planes.transpose(1, 2, 0)), label=int(batch.labels[entry.number]))

    def image_span(self, entry: Entry) -> None:
        """Return None: a row of an array is not an image file."""

    def _classes(self) -> tuple[str, ...]:
        meta = self.images / "meta"
        names = _mapping(meta).get("fine_label_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"{meta}: expected CIFAR-100's fine_label_names")
        return tuple(name.replace("_", " ") for name in names)


class _Batch:
    """Rows and labels of one file."""

    def __init__(self, path: Path | RemotePath) -> None:
        batch = _mapping(path)
        pixels: Any = batch.get("data")
        labels: Any = batch.get("labels", batch.get("fine_labels"))
        if isinstance(labels, list) and all(isinstance(n, int) and abs(n) < 1 << 31 for n in labels):
            labels = np.array(labels, np.int64)
        if not _is_batch(pixels, labels):
            raise PipelineError(f"{path}: expected CIFAR's rows of {3 * _SIDE**2} bytes and a label for each")
        self.pixels: UInt8[np.ndarray, "n 3072"] = pixels
        self.labels: Shaped[np.ndarray, " n"] = labels


def _is_batch(pixels: Any, labels: Any) -> bool:
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, np.ndarray):
        return False
    rows = pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] == 3 * _SIDE**2
    return rows and labels.shape == (len(pixels),) and labels.dtype.kind in "iu" and bool((labels >= 0).all())


@lru_cache(maxsize=1)
def _read_batch(path: Path | RemotePath) -> _Batch:
    return _Batch(path)


def _mapping(path: Path | RemotePath) -> dict[str, Any]:
    content = safe_unpickle(path)
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: expected CIFAR's dictionary, found {type(content).__name__}")
    texts = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return {key: value for key, value in texts.items() if isinstance(key, str)}


def safe_unpickle(path: Path | RemotePath) -> Any:
    """Return the content of a pickle of numpy arrays, numbers, text, lists and dictionaries.

    Raises:
        PipelineError: it names anything else, which could run code, or it is damaged.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy's warning about the old description of arrays
            return _Unpickler(io.BytesIO(read_input(path, MAX_IMAGE_BYTES)), encoding="latin-1").load()
    except _UNPICKLING_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PipelineError(f"{path}: refused: {reason}") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Allow only names that build numpy arrays."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"this pickle wants {module}.{name}, and only numpy arrays are allowed")
        return {"_reconstruct": _empty_array, "ndarray": None, "dtype": np.dtype, "encode": _latin1_bytes}[name]


def _empty_array(kind: None, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """Return an array without elements, the first step of numpy's pickles."""
    if kind is not None or shape != (0,):
        raise pickle.UnpicklingError("an array that is no plain numpy array")
    return np.ndarray.__new__(np.ndarray, shape, "b")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Return text as bytes, the encoding that Python 3 uses for Python 2 pickles; refuse other codecs."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in another codec than latin1")
    return text.encode("latin1")


# Exceptions of the unpickler on damaged pickles, observed by flipping and cutting bytes.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    OSError,
    SystemError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
    ImportError,
)
