"""The reader serves the rows that were written, whole or not at all, in every process."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import rows as rows_module
from cache.errors import DamagedError, MissingError, StaleError
from cache.manifest import ShardRecord
from cache.reader import EmbeddingStore
from cache.shard import Shard, read_shard
from tests import ROOT
from tests.factories.stores import TEACHER, image_shard, make_store, prompt_shard, text_shard

SIZES = (5, 4, 0, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("made") / "train", SIZES, views=2, prompts=True)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "train"))


def written(view: int = 0) -> np.ndarray:
    starts = np.cumsum([0, *SIZES])
    shards = [image_shard(start, size, seed=view) for start, size in zip(starts, SIZES, strict=False)]
    return np.concatenate([shard.embedding for shard in shards])


def test_all_that_was_written_is_served(folder: Path) -> None:
    store = EmbeddingStore.open(folder)
    assert (store.rows, store.dim, store.views) == (12, 8, 2)
    assert store.keys == [f"{number:08d}" for number in range(12)]
    assert store.labels is not None
    assert store.labels.tolist() == [0, 1, 2] * 4
    assert store.flips(1).tolist() == [False, True] * 6
    assert store.boxes(0).shape == (12, 4)
    assert store.prompts().classes == prompt_shard().classes
    np.testing.assert_array_equal(store.prompts().embedding, prompt_shard().embedding)
    for view in range(2):
        np.testing.assert_array_equal(store.image(view).load(), written(view))


def test_a_store_tells_which_parts_it_has(folder: Path, tmp_path: Path) -> None:
    store = EmbeddingStore.open(folder)
    assert (store.num_shards, store.manifest.num_shards) == (len(SIZES), len(SIZES))
    assert store.has_captions
    assert store.has_prompts
    assert store.manifest.sharded_parts == ["image/view-00", "image/view-01", "text"]
    assert store.caption_hashes().tolist() == [sha for shard in store.shards("text") for sha in shard.caption_sha]
    images_only = EmbeddingStore.open(make_store(tmp_path / "val", (2,), text=False))
    assert not images_only.has_captions
    assert not images_only.has_prompts


def test_the_captions_of_an_image_are_found_by_its_offsets(folder: Path) -> None:
    store = EmbeddingStore.open(folder)
    assert store.offsets[0] == 0
    assert store.offsets[-1] == len(store.text()) == 24
    # Image 5 is the first of the second shard.
    np.testing.assert_array_equal(store.text()[store.offsets[5] : store.offsets[6]], text_shard(5, 4).embedding[:3])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(-12, 11), max_size=40))
def test_any_batch_of_rows_is_the_one_numpy_gives(folder: Path, rows: list[int]) -> None:
    served = EmbeddingStore.open(folder).image()[np.array(rows, dtype=np.int64)]
    np.testing.assert_array_equal(served, written()[np.array(rows, dtype=np.int64)])
    assert served.dtype == np.float32


def test_slices_masks_lists_and_single_rows_are_those_numpy_gives(folder: Path) -> None:
    rows, plain = EmbeddingStore.open(folder).image(), written()
    odd, none = np.arange(12) % 2 == 1, np.array([], int)
    for index in (slice(None), slice(3, 10, 2), slice(None, None, -1), [4, 4, 0], odd, none):
        np.testing.assert_array_equal(rows[index], plain[index])
    for row in (0, 4, 5, 8, 9, 11, -1, -12, np.int64(7)):
        np.testing.assert_array_equal(rows[row], plain[row])
    assert rows.shape == (12, 8)
    np.testing.assert_array_equal(np.concatenate(list(rows.blocks())), plain)


@pytest.mark.parametrize("row", [12, -13, [0, 12], [-13], [True], [0.5], [[1]]])
def test_a_row_that_is_not_there_is_an_index_error(folder: Path, row: Any) -> None:
    rows = EmbeddingStore.open(folder).image()
    with pytest.raises(IndexError):
        rows[row]


def test_what_is_loaded_can_be_written_to_without_touching_the_file(folder: Path) -> None:
    loaded = EmbeddingStore.open(folder).image().load()
    loaded += 1
    np.testing.assert_array_equal(EmbeddingStore.open(folder).image().load(), written())


def test_nothing_is_opened_before_its_first_row_is_asked_for(own: Path) -> None:
    store = EmbeddingStore.open(own)
    for path in store.shard_paths("image/view-00")[1:]:
        path.write_bytes(b"damaged")
    np.testing.assert_array_equal(store.image()[:5], written()[:5])
    with pytest.raises(DamagedError, match=r"shard-00001\.h5"):
        store.image()[5]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_shard_is_refused_by_whatever_reads_it_first(own: Path) -> None:
    damage(own / "image" / "view-00" / "shard-00000.h5")
    uses: tuple[Callable[[EmbeddingStore], object], ...] = (
        lambda store: store.image()[0],
        lambda store: store.image()[np.arange(3)],
        lambda store: store.keys,
        lambda store: store.labels,
        lambda store: store.image().load(),
        lambda store: store.boxes(0),
        lambda store: store.dim,
    )
    for use in uses:
        with pytest.raises(DamagedError, match=r"view-00/shard-00000\.h5"):
            use(EmbeddingStore.open(own))
    EmbeddingStore.open(own).image(1).load()  # Negative control: the other view is whole.


def test_checking_sizes_only_trusts_the_bytes_but_not_the_size_nor_the_file(own: Path) -> None:
    first, second = (own / "image" / "view-00" / f"shard-0000{number}.h5" for number in (0, 1))
    damage(first)
    EmbeddingStore.open(own, verify="size").image()[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="expected"):
        EmbeddingStore.open(own, verify="size").image()[0]
    shutil.copy(second, first)
    with pytest.raises(DamagedError, match="another file than the manifest records"):
        EmbeddingStore.open(own, verify="size").image()[0]


def test_a_shard_is_hashed_once_per_process_and_again_when_it_changed(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def watch(
        path: Path,
        kind: type[Shard],
        fingerprint: str,
        record: ShardRecord,
        *,
        hashed: bool,
        read: Any = read_shard,
    ) -> Shard:
        calls.append((path.parent.name, hashed))
        return read(path, kind, fingerprint, record, hashed=hashed)

    monkeypatch.setattr(rows_module, "read_shard", watch)
    for _ in range(2):
        EmbeddingStore.open(own).image()[0]
    assert calls == [("view-00", True), ("view-00", False)]
    damage(own / "image" / "view-00" / "shard-00000.h5")
    with pytest.raises(DamagedError):
        EmbeddingStore.open(own).image()[0]


def test_exchanged_shards_are_refused(own: Path) -> None:
    a, b = own / "image" / "view-00" / "shard-00000.h5", own / "image" / "view-01" / "shard-00000.h5"
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)
    for view in range(2):
        with pytest.raises(DamagedError, match="another file than the manifest records"):
            EmbeddingStore.open(own).image(view)[0]


def test_a_missing_shard_is_named_on_opening(own: Path) -> None:
    (own / "text" / "shard-00001.h5").unlink()
    with pytest.raises(MissingError, match=r"text/shard-00001\.h5.*dvc repro embed"):
        EmbeddingStore.open(own)


def test_a_shard_that_vanishes_after_opening_is_named(own: Path) -> None:
    store = EmbeddingStore.open(own)
    (own / "text" / "shard-00001.h5").unlink()
    with pytest.raises(MissingError, match=r"text/shard-00001\.h5"):
        store.text()[np.arange(24)]


def test_a_split_without_a_part_says_what_it_has(tmp_path: Path) -> None:
    store = EmbeddingStore.open(make_store(tmp_path / "val", text=False))
    with pytest.raises(MissingError, match="no 'text', only image/view-00"):
        store.text()
    with pytest.raises(MissingError, match="no 'prompts'"):
        store.prompts()
    assert store.labels is None


def test_a_shard_in_the_place_of_another_store_s_is_refused(own: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", (5,), views=1, dim=16)
    shutil.copy(other / "image" / "view-00" / "shard-00000.h5", own / "image" / "view-00" / "shard-00000.h5")
    with pytest.raises((DamagedError, StaleError), match=r"shard-00000\.h5"):
        EmbeddingStore.open(own).image()[0]


def test_a_store_of_another_packed_split_or_teacher_is_refused_with_both_values(folder: Path) -> None:
    store = EmbeddingStore.open(folder)
    assert store.require_source("made-up", TEACHER) is store.require_source() is store
    with pytest.raises(StaleError, match="packed split made-up, but another is at hand"):
        store.require_source("another")
    with pytest.raises(StaleError, match=r"teacher [0-9a-f]{12}, but [0-9a-f]{12} is at hand"):
        store.require_source("made-up", {**TEACHER, "weights": "1" * 64})


def total(store: EmbeddingStore) -> float:
    return float(store.image()[np.arange(12)].sum())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_store_goes_to_workers_of_every_kind_before_and_after_it_was_used(folder: Path, method: str) -> None:
    store = EmbeddingStore.open(folder)
    with multiprocessing.get_context(method).Pool(2) as pool:
        before = pool.map(total, [store] * 4)
    store.image()[0]
    with multiprocessing.get_context(method).Pool(2) as pool:
        after = pool.map(total, [store] * 4)
    assert set(before + after) == {total(store)}


def test_a_pickled_store_carries_no_rows(folder: Path) -> None:
    store = EmbeddingStore.open(folder)
    rows = store.image()
    rows.load()
    assert len(pickle.dumps(rows)) < 5_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).load(), written())  # noqa: S301  our own


def test_a_store_of_more_shards_than_a_process_may_open_files_is_read_as_far_as_the_system_allows(
    tmp_path: Path,
) -> None:
    folder = make_store(tmp_path / "train", (1,) * 50, text=False)
    code = (
        "import resource, sys; from pathlib import Path; from cache.errors import DamagedError\n"
        "from cache.reader import EmbeddingStore\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, int(sys.argv[2])))\n"
        "try: print(len(EmbeddingStore.open(Path(sys.argv[1])).image().load()))\n"
        "except DamagedError as error: print(error)"
    )
    told = [
        subprocess.check_output([sys.executable, "-c", code, str(folder), limit], text=True, cwd=ROOT)
        for limit in ("4096", "40")
    ]
    assert told[0] == "50\n"
    assert "too many open files. Raise `ulimit -n`" in told[1]


def test_reading_needs_no_torch() -> None:
    code = "import sys, cache.reader, cache.work_store; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
