"""Shards of tokens: patches of images or words of captions, with their codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cache.token_codecs import FORMATS, EncodedTokens, TokenCodec

CODE_TYPES = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "int4": "|u1", "pq": "|u1"}


@dataclass(frozen=True)
class PatchShard:
    """Unit-length patch tokens of one view of each image of a packed shard, in its order, row-major."""

    keys: Sequence[str]
    codes: np.ndarray
    """(n, p, c), encoded."""
    error: np.ndarray
    """(2,) float32: the largest norm of the residual outside the basis, and of the rounding error within it."""
    codec: tuple[str, ...]
    """Name of the codec, one element."""
    scale: np.ndarray | None = None
    """(n, p) float32, for int8 and int4."""
    basis: np.ndarray | None = None
    centroids: np.ndarray | None = None

    kind: ClassVar[str] = "patches"
    texts: ClassVar[tuple[str, ...]] = ("keys", "codec")
    columns: ClassVar[dict[str, str]] = {
        "codes": "",
        "error": "<f4",
        "scale": "<f4",
        "basis": "<f4",
        "centroids": "<f4",
    }
    optional: ClassVar[frozenset[str]] = frozenset({"scale", "basis", "centroids"})

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self.codes)


@dataclass(frozen=True)
class WordShard:
    """Unit-length tokens of every caption of a packed shard, including begin and end of text, concatenated."""

    keys: Sequence[str]
    codes: np.ndarray
    """(w, c), encoded."""
    error: np.ndarray
    codec: tuple[str, ...]
    offsets: np.ndarray
    """(m+1,) int64: tokens offsets[j] to offsets[j+1] belong to caption j of this shard."""
    word: np.ndarray
    """(w,) int16: index of the word in `caption.split()`; −1: none."""
    caption_sha: np.ndarray
    """(m,) S64, as in the text part."""
    scale: np.ndarray | None = None
    """(w,) float32."""
    basis: np.ndarray | None = None
    centroids: np.ndarray | None = None

    kind: ClassVar[str] = "words"
    texts: ClassVar[tuple[str, ...]] = ("keys", "codec")
    columns: ClassVar[dict[str, str]] = {
        "codes": "",
        "error": "<f4",
        "offsets": "<i8",
        "word": "<i2",
        "caption_sha": "|S64",
        "scale": "<f4",
        "basis": "<f4",
        "centroids": "<f4",
    }
    optional: ClassVar[frozenset[str]] = frozenset({"scale", "basis", "centroids"})

    @property
    def rows(self) -> int:
        """Number of captions."""
        return len(self.caption_sha)


TokenShard = PatchShard | WordShard


def codec_fields(codec: TokenCodec, coded: EncodedTokens) -> dict[str, Any]:
    """Return the fields of a shard with the codec's parameters and errors."""
    return {
        "codec": (codec.format,),
        "error": np.array([coded.residual, coded.rounding], np.float32),
        "basis": codec.basis,
        "centroids": codec.centroids,
    }


def shard_codec(shard: TokenShard) -> TokenCodec:
    """Return the codec of a shard."""
    form: Any = shard.codec[0]
    return TokenCodec(form, shard.basis, shard.centroids)


def token_faults(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return the faults in the arrays of a token shard."""
    form = arrays["codec"].tolist()[0].decode("ascii", "replace") if arrays["codec"].size == 1 else ""
    if form not in FORMATS:
        return f"codec {form!r}, expected one of {', '.join(FORMATS)}"
    if arrays["codes"].dtype != np.dtype(CODE_TYPES[form]):
        return f"'codes' is {arrays['codes'].dtype}, expected {np.dtype(CODE_TYPES[form])} under {form}"
    if (form in ("int8", "int4")) != ("scale" in arrays):
        return f"'scale' and {form} do not belong together"
    if (form == "pq") != ("centroids" in arrays):
        return f"'centroids' and {form} do not belong together"
    return None


def token_shapes(kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each array of a shard of tokens; None is any length."""
    fitted: dict[str, tuple[int | None, ...]] = {"error": (2,), "basis": (None, None), "centroids": (None, 256, None)}
    shape = arrays["codes"].shape
    if kind == "patches":
        n = arrays["keys"].size
        return {**fitted, "keys": (None,), "codes": (n, None, None), "scale": (n, shape[1] if len(shape) > 1 else None)}
    w, m = (shape or (0,))[0], arrays["caption_sha"].size
    return {
        **fitted,
        "keys": (None,),
        "codes": (w, None),
        "scale": (w,),
        "word": (w,),
        "offsets": (m + 1,),
        "caption_sha": (m,),
    }
