"""Embeddings leave for other people's formats and come back to the bit; what cannot be known is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import DamagedError, MissingError, WriteError
from cache.manifest import read_manifest
from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.commands.audit import audit
from pipeline.commands.export_embeddings import Format, export_embeddings, parse_embedding_export_options
from pipeline.commands.import_embeddings import import_embeddings
from pipeline.commands.search import search
from pipeline.commands.verify import verify
from pipeline.evaluation.audit import read_gallery
from pipeline.evaluation.metrics.retrieval import rank_candidates
from pipeline.moments import MomentsParams, moments
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.students.inputs.splits import open_split
from pipeline.whiten import TargetParams, whiten
from tests.factories.project import RUNTIME, project
from tests.factories.stores import make_store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return project(tmp_path_factory.mktemp("home"), students=(), targets=())


@pytest.fixture
def abroad(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "abroad")


def rows_of(layout: Layout, split: str) -> dict[str, np.ndarray]:
    store = EmbeddingStore.open(layout.embeddings(split))
    found = {"image": store.image().load(), "keys": np.array(store.keys)}
    if "text" in store.manifest.parts:
        words = np.concatenate([shard.caption_sha for shard in store.shards("text")])
        found |= {"text": store.text().load(), "offsets": store.offsets, "words": words}
    if "prompts" in store.manifest.parts:
        prompts = store.prompts()
        found |= {
            "prompts": prompts.embedding,
            "classes": np.array(prompts.classes),
            "labels": np.asarray(store.labels),
        }
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize(("split", "form"), [("train", "clip-retrieval"), ("train", "npy"), ("badges", "npy")])
def test_what_leaves_and_comes_back_has_every_bit(home: Layout, abroad: Layout, split: str, form: Format) -> None:
    made = export_embeddings(split, abroad.root / "out", form, home, RUNTIME)
    import_embeddings(made.folder, split, abroad)
    assert same(rows_of(abroad, split), rows_of(home, split))
    # Negative control: of length 1 in float16, the bits are others.
    export_embeddings(split, abroad.root / "out", form, home, RUNTIME, unit=True)
    import_embeddings(made.folder, split, abroad, force=True)
    assert not same(rows_of(abroad, split), rows_of(home, split))


def recall(layout: Layout) -> float:
    gallery = read_gallery(EmbeddingStore.open(layout.embeddings("val")), 1000)
    assert gallery is not None
    return rank_candidates(l2_normalize(gallery.image), l2_normalize(gallery.text), gallery.pairs).recall(1)


@pytest.mark.parametrize("form", ["clip-retrieval", "npy"])
def test_captions_of_a_split_that_is_not_packed_are_not_taken_for_the_same_words(
    home: Layout, abroad: Layout, form: Format
) -> None:
    alone = Layout(abroad.root / "alone")
    alone.embeddings("val").parent.mkdir(parents=True)
    alone.embeddings("val").symlink_to(home.embeddings("val"))
    made = export_embeddings("val", abroad.root / "out", form, alone, RUNTIME)
    found = import_embeddings(made.folder, "val", abroad)
    assert same(rows_of(abroad, "val"), rows_of(home, "val"))  # which captions are equal is known by their hashes
    assert recall(abroad) == recall(home) < 1
    assert any("captions by the hash of their words" in line for line in made.omissions)
    assert any(line.startswith("the words of the texts") for line in found.missing_provenance)


def test_empty_captions_are_words_that_nobody_knows(home: Layout, abroad: Layout) -> None:
    """As other programs, and older exports, leave them."""
    folder = export_embeddings("val", abroad.root / "out", "clip-retrieval", home, RUNTIME).folder
    path = folder / "metadata" / "metadata_0.parquet"
    table = pq.read_table(path)
    empty = pa.array(["", " "] * (table.num_rows // 2) + [""] * (table.num_rows % 2))
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", empty), path)
    with pytest.raises(DamagedError, match=r"metadata_0.parquet: damaged: .* or delete wclip-kd.json if it was"):
        import_embeddings(folder, "val", abroad)
    (folder / "wclip-kd.json").unlink()
    found = import_embeddings(folder, "val", abroad)
    assert abs(recall(abroad) - recall(home)) < 0.1  # equal captions embedded in two batches differ in a bit: two texts
    assert any(line.startswith(f"the words of {table.num_rows} texts") for line in found.missing_provenance)


def test_many_partitions_come_back_as_one_split(home: Layout, abroad: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.interchange.clip_retrieval.PARTITION_ROWS", 30)
    made = export_embeddings("train", abroad.root / "out", "clip-retrieval", home, RUNTIME)
    assert "img_emb_03.npy" in [path.name for path in (made.folder / "img_emb").iterdir()]  # filled to equal lengths
    import_embeddings(made.folder, "train", abroad)
    assert same(rows_of(abroad, "train"), rows_of(home, "train"))


def test_the_folder_is_laid_out_as_clip_retrieval_reads_it(home: Layout, abroad: Layout) -> None:
    folder = export_embeddings("val", abroad.root / "out", "clip-retrieval", home, RUNTIME, unit=True).folder
    image, text = np.load(folder / "img_emb" / "img_emb_0.npy"), np.load(folder / "text_emb" / "text_emb_0.npy")
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet")
    assert {"image_path", "caption"} <= set(table.column_names)
    assert image.shape == text.shape == (table.num_rows, 24)
    assert image.dtype == np.float16
    assert np.abs(np.linalg.norm(image.astype(np.float64), axis=1) - 1).max() < 1e-3
    store = EmbeddingStore.open(home.embeddings("val"))
    row = store.offsets[3]
    cosine = image[row] @ store.image()[3] / np.linalg.norm(store.image()[3])
    assert cosine == pytest.approx(1, abs=1e-3)


def test_an_import_reads_with_plain_h5py_and_verifies(home: Layout, abroad: Layout) -> None:
    made = export_embeddings("train", abroad.root / "out", "npy", home, RUNTIME)
    found = import_embeddings(made.folder, "train", abroad, model="ViT-B-16")
    with h5py.File(found.folder / "image" / "view-00" / "shard-00000.h5") as file:
        assert file["embedding"][()].dtype == np.float32
        assert np.array_equal(file["embedding"][()], np.load(made.folder / "image.npy"))
        assert file["keys"][0].decode() == EmbeddingStore.open(home.embeddings("train")).keys[0]
    manifest = read_manifest(found.folder)
    assert manifest.teacher["imported"] is True
    assert (manifest.teacher["model"], manifest.teacher["weights_sha256"]) == ("ViT-B-16", "unknown")
    assert verify(abroad, ["train"]).faults == []


def test_moments_whiten_audit_and_search_work_on_imports(home: Layout, abroad: Layout) -> None:
    for split in ("train", "val", "badges"):
        made = export_embeddings(split, abroad.root / split, "npy", home, RUNTIME)
        import_embeddings(made.folder, split, abroad)
    moments(MomentsParams(), abroad, RUNTIME)
    target = TargetParams(method="zca", floor=0.01)
    whiten("zca", target, abroad)
    here, there = (audit({"zca": target}, ["badges"], 0.01, place, RUNTIME) for place in (home, abroad))
    assert here.ceiling == there.ceiling
    keys = EmbeddingStore.open(abroad.embeddings("val")).keys
    assert search(EmbeddingStore.open(abroad.embeddings("val")).image()[5], "val", abroad, top=1).hits[0].key == keys[5]
    with pytest.raises(MissingError, match="imported without images, so there are no pixels to learn from"):
        open_split("train", abroad, RUNTIME)


def test_where_the_images_are_packed_each_embedding_goes_beside_its_own(home: Layout, tmp_path: Path) -> None:
    """Rows in another order, of more images than were packed, under file names below another folder."""
    store, n = EmbeddingStore.open(home.embeddings("badges")), 40
    order = np.random.default_rng(0).permutation(n + 1)
    image = np.concatenate([store.image().load(), np.ones((1, 24), np.float32)])[order]
    names = [f"elsewhere/{[*store.keys, 'stranger'][row]}.jpg" for row in order]
    source = clip_retrieval(tmp_path / "dump", image, names)
    before = rows_of(home, "badges")
    there = Layout(tmp_path / "there")
    there.packed("badges").parent.mkdir(parents=True)
    there.packed("badges").symlink_to(home.packed("badges"))
    made = import_embeddings(source, "badges", there)
    found = EmbeddingStore.open(there.embeddings("badges"))
    assert np.array_equal(found.image().load(), before["image"])
    assert found.keys == store.keys
    assert np.array_equal(np.asarray(found.labels), np.asarray(store.labels))
    assert np.array_equal(found.boxes(0), store.boxes(0))
    assert made.unpacked_rows == 1
    assert open_split("badges", there, RUNTIME).packed.rows == n  # a student could learn from it
    assert verify(there, ["badges"]).faults == []
    clip_retrieval(source, image[1:], names[1:])
    with pytest.raises(UsageError, match=r"1 of 40 packed images have no embedding .*, first '"):
        import_embeddings(source, "badges", there, force=True)


def test_an_import_says_what_it_cannot_know(tmp_path: Path, abroad: Layout) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    np.save(tmp_path / "unit.npy", unit)
    said = "\n".join(import_embeddings(tmp_path / "unit.npy", "train", abroad).lines)
    for words in ("weights", "no images", "one view only", "length 1", "float16"):
        assert words in said
    np.save(tmp_path / "long.npy", rows.astype(np.float32))
    said = "\n".join(import_embeddings(tmp_path / "long.npy", "val", abroad).lines)
    assert "length 1" not in said
    assert "float16" not in said


def test_an_import_that_is_there_stays_and_another_is_refused_unless_forced(tmp_path: Path, abroad: Layout) -> None:
    for seed in (0, 1):
        np.save(tmp_path / f"{seed}.npy", np.random.default_rng(seed).normal(size=(6, 4)))
    folder = import_embeddings(tmp_path / "0.npy", "train", abroad).folder
    shard = folder / "image" / "view-00" / "shard-00000.h5"
    first = shard.stat().st_ino
    import_embeddings(tmp_path / "0.npy", "train", abroad)
    assert shard.stat().st_ino == first
    with pytest.raises(UsageError, match=r"not this import\. Pass --force"):
        import_embeddings(tmp_path / "1.npy", "train", abroad)
    import_embeddings(tmp_path / "1.npy", "train", abroad, force=True)
    assert shard.stat().st_ino != first
    made = make_store(abroad.embeddings("val"))
    with pytest.raises(UsageError, match="holds embeddings by made-up"):
        import_embeddings(tmp_path / "0.npy", made.name, abroad)


def clip_retrieval(folder: Path, image: np.ndarray, names: list[str], text: np.ndarray | None = None) -> Path:
    for side, array in (("img_emb", image), ("text_emb", text)):
        if array is not None:
            (folder / side).mkdir(parents=True, exist_ok=True)
            np.save(folder / side / f"{side}_0.npy", array)
    (folder / "metadata").mkdir(exist_ok=True)
    columns = {"image_path": names, **({} if text is None else {"caption": ["a"] * len(names)})}
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")
    return folder


GOOD = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
NAN = np.where(np.arange(4)[:, None] == 2, np.nan, GOOD)
OBJECTS = np.array([[{"a": 1}]] * 4, dtype=object)
FOUR = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("image", "text", "names", "message"),
    [
        (GOOD.astype(np.int64), None, FOUR, r"img_emb_0\.npy: holds int64, expected embeddings in float16"),
        (GOOD[0], None, FOUR, r"shape \(8,\), expected 2 axes"),
        (GOOD[:0], None, [], r"shape \(0, 8\), expected 2 axes|cannot|not an \.npy"),
        (NAN, None, FOUR, r"img_emb_0\.npy: row 2 holds NaN"),
        (GOOD, NAN, FOUR, r"text_emb_0\.npy: row 2 holds NaN"),
        (OBJECTS, None, FOUR, "it holds Python objects"),
        (GOOD, GOOD[:, :6], FOUR, "6 dimensions, but .* has 8: are they of one model"),
        (GOOD, GOOD[:3], FOUR, r"text_emb_0\.npy: 3 rows, but .*metadata_0\.parquet has 4"),
        (GOOD, None, FOUR[:3], r"img_emb_0\.npy: 4 rows, but .* has 3"),
        (GOOD, None, ["a", "b", "c", "a"], "'a' stands twice, with different embeddings"),
        (GOOD, None, ["a", "b", "", "d"], "column 'image_path' has rows without text"),
    ],
)
def test_bad_arrays_are_one_line_and_nothing_is_published(  # noqa: PLR0917
    tmp_path: Path, abroad: Layout, image: np.ndarray, text: np.ndarray | None, names: list[str], message: str
) -> None:
    source = clip_retrieval(tmp_path / "dump", image, names, text)
    with pytest.raises(UsageError, match=message) as refused:
        import_embeddings(source, "train", abroad)
    assert "\n" not in str(refused.value)
    assert not (abroad.embeddings("train") / "manifest.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "metadata" / "metadata_0.parquet").unlink(), r"no metadata_0\.parquet: not a whole folder"),
        (lambda f: (f / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1 no"), "not a parquet file"),
        (
            lambda f: pq.write_table(pa.table({"url": FOUR}), f / "metadata" / "metadata_0.parquet"),
            "no column 'image_path', found url",
        ),
        (lambda f: np.save(f / "img_emb" / "img_emb_1.npy", GOOD), "partition 1 is in one of"),
        (lambda f: (f / "img_emb" / "img_emb_0.npy").write_bytes(b"\x80\x04no"), "not an .npy array"),
        (
            lambda f: (f / "img_emb" / "img_emb_0.npy").write_bytes(
                (f / "img_emb" / "img_emb_0.npy").read_bytes()[:-9]
            ),
            "not an .npy array",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_one_line(
    tmp_path: Path, abroad: Layout, damage: Callable[[Path], object], message: str
) -> None:
    source = clip_retrieval(tmp_path / "dump", GOOD, FOUR)
    damage(source)
    with pytest.raises(UsageError, match=message):
        import_embeddings(source, "train", abroad)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"text.npy": GOOD[:3]}, r"3 rows for 4 images, and no offsets\.npy"),
        ({"text.npy": GOOD[:3], "offsets.npy": np.array([0, 1, 2, 2, 5])}, "rise from 0 to the 3 rows"),
        ({"label.npy": np.array([0.5, 1, 2, 3])}, r"label\.npy: 4 of float64, expected 4 whole numbers"),
        ({"prompts.npy": GOOD}, r"expected \(0 classes"),
        ({"names.json": {"keys": ["a", "b"]}}, "'keys': 2 names for 4 rows"),
        ({"names.json": {"keys": ["a", "b", "b", "c"]}}, "1 of its 4 keys stand twice"),
        ({"names.json": ["a"]}, "expected lists by the names keys"),
    ],
)
def test_plain_files_that_do_not_match_are_one_line(
    tmp_path: Path, abroad: Layout, files: dict[str, object], message: str
) -> None:
    np.save(tmp_path / "image.npy", GOOD)
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value)) if name == "names.json" else np.save(
            tmp_path / name, np.asarray(value)
        )
    with pytest.raises(UsageError, match=message):
        import_embeddings(tmp_path, "train", abroad)


def test_wrong_words_and_places_are_one_line(home: Layout, abroad: Layout, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format parquet: expected clip-retrieval or npy"):
        parse_embedding_export_options("parquet", "all")
    with pytest.raises(UsageError, match="no such file"):
        import_embeddings(tmp_path / "nothing.npy", "train", abroad)
    with pytest.raises(UsageError, match=r"--split \.\./up: expected a name"):
        import_embeddings(tmp_path, "../up", abroad)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(WriteError, match="holds something else, which would be lost"):
        export_embeddings("val", tmp_path / "mine", "npy", home, RUNTIME)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_images_without_captions_have_no_row_in_clip_retrievals_table(home: Layout, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", GOOD)
    np.save(tmp_path / "text.npy", GOOD[:3])
    np.save(tmp_path / "offsets.npy", np.array([0, 1, 1, 2, 3]))
    there = Layout(tmp_path / "there")
    import_embeddings(tmp_path, "train", there)
    with pytest.raises(PipelineError, match="1 images have no caption, first '00000001'"):
        export_embeddings("train", tmp_path / "out", "clip-retrieval", there, RUNTIME)
    assert not (tmp_path / "out").exists()
    assert export_embeddings("train", tmp_path / "out", "npy", there, RUNTIME).rows == 3
