"""A shard holds what its kind says, from the inputs it names, or it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cache.arrays import write_arrays
from cache.errors import DamagedError, MissingError, StaleError
from cache.shard import ImageShard, PromptShard, Shard, TextShard, read_shard, shard_record, write_shard
from tests.factories.stores import image_shard, prompt_shard, text_shard

SHARDS: dict[Any, Any] = {
    ImageShard: image_shard(0, 5, labeled=True),
    TextShard: text_shard(0, 5),
    PromptShard: prompt_shard(),
}


def same(a: Shard, b: Shard) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in (*a.texts, *a.columns))


@pytest.mark.parametrize("kind", SHARDS, ids=lambda kind: kind.kind)
def test_a_shard_comes_back_as_it_went_in(tmp_path: Path, kind: Any) -> None:
    record = write_shard(tmp_path / "shard-00000.h5", SHARDS[kind], "0123456789ab")
    found = read_shard(tmp_path / "shard-00000.h5", kind, "0123456789ab", record)
    assert same(found, SHARDS[kind])
    assert record.rows == len(SHARDS[kind].embedding)
    assert record == shard_record(tmp_path / "shard-00000.h5", kind, "0123456789ab")


def test_a_split_without_classes_has_no_labels(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", image_shard(0, 3), "f")
    assert read_shard(tmp_path / "a.h5", ImageShard).label is None


def test_a_packed_shard_of_which_no_image_is_left_makes_an_empty_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", image_shard(0, 0), "f")
    assert read_shard(tmp_path / "a.h5", ImageShard).embedding.shape == (0, 8)
    write_shard(tmp_path / "b.h5", text_shard(0, 0), "f")
    assert read_shard(tmp_path / "b.h5", TextShard).offsets.tolist() == [0]


def test_a_shard_from_other_inputs_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", image_shard(0, 3), "aaaaaaaaaaaa")
    with pytest.raises(StaleError, match=r"a\.h5.*aaaaaaaaaaaa, expected bbbbbbbbbbbb.*dvc repro embed"):
        read_shard(tmp_path / "a.h5", ImageShard, "bbbbbbbbbbbb")


def test_a_shard_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", image_shard(0, 3), "f")
    with pytest.raises(StaleError, match="kind image, expected text"):
        read_shard(tmp_path / "a.h5", TextShard)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"a\.h5"):
        read_shard(tmp_path / "a.h5", ImageShard)


def test_a_renamed_shard_is_refused_so_that_order_cannot_change(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard-00000.h5", image_shard(0, 3), "f")
    (tmp_path / "shard-00000.h5").rename(tmp_path / "shard-00001.h5")
    with pytest.raises(DamagedError, match=r"shard-00001\.h5.*written with name shard-00000\.h5"):
        shard_record(tmp_path / "shard-00001.h5", ImageShard, "f")


@pytest.mark.parametrize(("value", "row"), [(np.nan, 2), (np.inf, 0), (-np.inf, 4)])
def test_rows_that_no_teacher_says_are_not_written(tmp_path: Path, value: float, row: int) -> None:
    embedding = image_shard(0, 5).embedding.copy()
    embedding[row, 3] = value
    with pytest.raises(DamagedError, match=f"1 of 5 embeddings.*first row {row}"):
        write_shard(tmp_path / "a.h5", replace(image_shard(0, 5), embedding=embedding), "f")
    assert list(tmp_path.iterdir()) == []


def test_rows_past_the_first_batch_that_were_never_filled_are_not_written(tmp_path: Path) -> None:
    embedding = image_shard(0, 5).embedding.copy()
    embedding[3:] = 0
    with pytest.raises(DamagedError, match=r"2 of 5 embeddings.*only zeros"):
        write_shard(tmp_path / "a.h5", replace(image_shard(0, 5), embedding=embedding), "f")


image, text, prompts = image_shard(0, 5, labeled=True), text_shard(0, 5), prompt_shard()


@pytest.mark.parametrize(
    "shard",
    [
        replace(image, embedding=image.embedding[:4]),
        replace(image, embedding=image.embedding.astype(np.float16)),
        replace(image, embedding=image.embedding[0]),
        replace(image, box=image.box[:, :3]),
        replace(image, flip=image.flip.astype(np.int64)),
        replace(image, label=np.array([0, 1])),
        replace(image, keys=image.keys[1:]),
        replace(text, offsets=text.offsets[1:]),
        replace(text, offsets=text.offsets + 1),
        replace(text, offsets=text.offsets[[0, 3, 1, 2, 4, 5]]),
        replace(text, tokens=text.tokens[1:]),
        replace(text, caption_sha=text.caption_sha.astype("S32")),
        replace(prompts, classes=prompts.classes[1:]),
        replace(prompts, templates=(*prompts.templates, "one more {c}")),
    ],
)
def test_arrays_that_do_not_fit_together_are_neither_written_nor_read(
    tmp_path: Path, shard: ImageShard | TextShard | PromptShard
) -> None:
    with pytest.raises(DamagedError, match="not a shard of embeddings"):
        write_shard(tmp_path / "a.h5", shard, "f")
    # A file that says it is whole and of this kind, but was not written by us.
    arrays = {name: np.array([key.encode() for key in getattr(shard, name)]) for name in shard.texts}
    arrays |= {name: getattr(shard, name) for name in shard.columns}
    count, kind = len(shard.embedding), cast(Any, type(shard))
    stamp = {"format": 1, "kind": shard.kind, "fingerprint": "f", "name": "b.h5", "rows": count}
    write_arrays(tmp_path / "b.h5", arrays, stamp)
    with pytest.raises(DamagedError, match=r"b\.h5"):
        read_shard(tmp_path / "b.h5", kind, "f")


@pytest.mark.parametrize("change", [{"rows": 6}, {"format": 2}, {"kind": "x"}, {"name": "b.h5"}, {"fingerprint": "g"}])
def test_a_stamp_that_contradicts_the_arrays_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    arrays = {
        "keys": np.array([b"a"]),
        "embedding": np.ones((1, 2), np.float32),
        "box": np.ones((1, 4), np.float32),
        "flip": np.array([False]),
    }
    stamp = {"format": 1, "kind": "image", "fingerprint": "f", "name": "a.h5", "rows": 1}
    write_arrays(tmp_path / "a.h5", arrays, stamp)
    read_shard(tmp_path / "a.h5", ImageShard, "f")
    write_arrays(tmp_path / "a.h5", arrays, {**stamp, **change})
    with pytest.raises((DamagedError, StaleError), match=r"a\.h5"):
        read_shard(tmp_path / "a.h5", ImageShard, "f")


@pytest.mark.parametrize("drop", ["keys", "embedding", "box", "flip"])
def test_a_missing_or_surplus_array_is_refused(tmp_path: Path, drop: str) -> None:
    arrays = {
        "keys": np.array([b"a"]),
        "embedding": np.ones((1, 2), np.float32),
        "box": np.ones((1, 4), np.float32),
        "flip": np.array([False]),
    }
    stamp = {"format": 1, "kind": "image", "fingerprint": "f", "name": "a.h5", "rows": 1}
    for wrong in ({name: array for name, array in arrays.items() if name != drop}, {**arrays, "more": np.ones(2)}):
        write_arrays(tmp_path / "a.h5", wrong, stamp)
        with pytest.raises(DamagedError, match="expected"):
            read_shard(tmp_path / "a.h5", ImageShard, "f")


def test_keys_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    arrays = {
        "keys": np.array([b"\xff"]),
        "embedding": np.ones((1, 2), np.float32),
        "box": np.ones((1, 4), np.float32),
        "flip": np.array([False]),
    }
    stamp = {"format": 1, "kind": "image", "fingerprint": "f", "name": "a.h5", "rows": 1}
    write_arrays(tmp_path / "a.h5", arrays, stamp)
    with pytest.raises(DamagedError, match="UTF-8"):
        read_shard(tmp_path / "a.h5", ImageShard, "f")
