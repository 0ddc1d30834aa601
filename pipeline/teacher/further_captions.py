"""Embed additional captions, which are stored next to the packed shards, without reading images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cache.manifest import CAPTIONS, is_further_captions, shard_name
from cache.shard import TextShard, read_shard
from pipeline.data.packing.packed import PackedSplit
from pipeline.teacher.model import Teacher
from pipeline.teacher.parts import PartBuild
from pipeline.teacher.shards import EmbeddedImages, embed_captions


def embed_further_captions(teacher: Teacher, packed: PackedSplit, name: str, number: int, batch: int) -> TextShard:
    """Embed the captions of a file for one packed shard; an image without captions has an empty range.

    Raises:
        MissingError, DamagedError: the captions do not exist, or changed since they were packed.
        PipelineError: the teacher's output has NaN, infinity or zeros.
    """
    keys, captions = packed.read_captions(name, number)
    return embed_captions(teacher, EmbeddedImages(keys, captions, ()), batch)


def cut_remarks(
    teacher: Teacher, packed: PackedSplit, parts: Sequence[PartBuild], embedded: Mapping[int, Sequence[str]]
) -> Iterator[str]:
    """Yield one line per file of captions that the tokenizer truncated in the new shards.

    Only captions that fill the model's context are tokenized again.
    """
    for part in parts:
        if not is_further_captions(part.name):
            continue
        numbers = [number for number, names in embedded.items() if part.name in names]
        cut = [caption for number in numbers for caption in _cut(teacher, packed, part, number)]
        if cut:
            name, limit = part.name.removeprefix(CAPTIONS), teacher.identity.context_length
            yield (
                f"captions '{name}': {len(cut)} have more than the {limit} tokens that {teacher.identity.model} reads, "
                f"and are read up to there, the first: {cut[0][:60]!r}"
            )


def _cut(teacher: Teacher, packed: PackedSplit, part: PartBuild, number: int) -> list[str]:
    shard = read_shard(part.folder / shard_name(number), TextShard, part.fingerprint, hashed=False)
    _, captions = packed.read_captions(part.name.removeprefix(CAPTIONS), number)
    texts = [caption for own in captions for caption in own]
    full = np.flatnonzero(shard.tokens.argmax(axis=1) == teacher.identity.context_length - 1)
    return teacher.find_cut([texts[row] for row in full])
