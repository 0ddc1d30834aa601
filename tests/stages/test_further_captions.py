"""Further captions of the training images: packed beside the shards, a part of their own, and nothing else touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.sample_captions import sample_captions
from cache.ensemble import join_stores
from cache.errors import DamagedError, StaleError
from cache.reader import EmbeddingStore
from cache.teachers import teacher_folders
from pipeline.commands.gc import gc
from pipeline.commands.info import info
from pipeline.commands.integrity_checks import check_embeddings, check_packed, collect_faults
from pipeline.data.packing.caption_shards import require_same_captions
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.data.synthetic.world import render_image
from pipeline.data.views import ViewParams
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.planning.contents import count_split
from pipeline.planning.present import find_listing, find_packed
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.speed import count_embedded
from pipeline.whitening.moments_file import embeddings_digest, load_moments
from tests import ROOT
from tests.stages.test_embed import files
from tests.stages.test_teachers import (
    IMAGES,
    RUNTIME,
    embed_all,
    image_model,
    image_weights,  # noqa: F401  a fixture
    packed,  # noqa: F401  a fixture
)

ROWS = IMAGES["train"]
Lines = dict[str, Any]


def written(path: Path, lines: Lines) -> Path:
    """Write JSON lines: `image`, and `caption` or a list of them."""
    path.write_text("".join(json.dumps({"image": k, "caption": v}) + "\n" for k, v in lines.items()), encoding="utf-8")
    return path


def some_lines(count: int = 30) -> Lines:
    """Two captions of each of the first images, one of the second; by key, every fifth as the source calls it."""
    names = [f"{row:06d}" if row % 5 else f"train/{row}" for row in range(count)]
    return {name: [f"picture {row} of all", f"a {row}"][: 1 + row % 2] for row, name in enumerate(names)}


def add_captions(layout: Layout, **captions: Path | dict[str, Any]) -> PackedSplit:
    """Index and pack the training split with these files of captions."""
    named = {name: {"file": str(file)} if isinstance(file, Path) else file for name, file in captions.items()}
    source = parse_source({"source": "sample", "part": "train", "images": ROWS, "caption_files": named}, "index.train")
    index("train", source, layout)
    return open_packed(pack("train", source, PackParams(shard_rows=16), layout, RUNTIME))


@pytest.fixture
def layout(packed: Layout, tmp_path: Path) -> Layout:  # noqa: F811
    shutil.copytree(packed.root, tmp_path / "project")
    return Layout(tmp_path / "project")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the images and the texts that the teacher is asked about."""
    counts = {"images": 0, "texts": 0}
    for name, what in (("forward_images", "images"), ("embed_tokens", "texts")):
        method: Callable[..., Any] = getattr(Teacher, name)

        def call(self: Teacher, rows: np.ndarray, method: Any = method, what: str = what) -> Any:
            counts[what] += len(rows)
            return method(self, rows)

        monkeypatch.setattr(Teacher, name, call)
    return counts


def test_captions_are_packed_beside_the_shards_whose_bytes_and_digest_stay(layout: Layout, tmp_path: Path) -> None:
    before, digest = files(layout.packed("train")), open_packed(layout.packed("train")).digest
    split = add_captions(layout, synthetic=written(tmp_path / "c.jsonl", some_lines()))
    after = files(split.folder)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: mark for name, mark in before.items() if name != "manifest.json"
    }
    assert split.digest == digest
    assert set(after) - set(before) == {f"captions/synthetic/shard-{number:05d}.jsonl" for number in range(3)}
    lines = [
        json.loads(line)
        for number in range(3)
        for line in (split.folder / f"captions/synthetic/shard-{number:05d}.jsonl").read_text().splitlines()
    ]
    assert [key for key, _ in lines] == [sample.key for number in range(3) for sample in split.read(number)]
    assert [captions for _, captions in lines] == [*some_lines().values(), *([] for _ in range(10))]
    assert split.caption_files["synthetic"].counts == {
        "images": 30, "missing": 10, "captions": 45, "unknown": 0, "empty": 0, "duplicates": 0,
    }  # fmt: skip
    assert files(add_captions(layout, synthetic=tmp_path / "c.jsonl").folder) == after
    # Without the file the split is what it was, to the last byte.
    assert files(add_captions(layout).folder) == before


def test_a_part_is_embedded_for_itself_and_no_old_byte_or_fingerprint_changes(
    layout: Layout, tmp_path: Path, tiny_teacher: str, asked: dict[str, int]
) -> None:
    embed_all(layout, {"teacher": {"model": tiny_teacher}}, ("train",))
    moments(MomentsParams(), layout, RUNTIME)
    before = EmbeddingStore.open(layout.embeddings("train"))
    kept, measured = files(before.folder), files(layout.moments.parent)["moments.h5"]
    add_captions(layout, synthetic=written(tmp_path / "c.jsonl", some_lines()))
    asked.update(images=0, texts=0)
    embed_all(layout, {"teacher": {"model": tiny_teacher}}, ("train",))
    assert asked == {"images": 0, "texts": 45}
    store = EmbeddingStore.open(layout.embeddings("train"))
    now = files(store.folder)
    assert {name: now[name] for name in kept if name != "manifest.json"} == {
        name: mark for name, mark in kept.items() if name != "manifest.json"
    }
    assert {name: store.manifest.parts[name] for name in before.manifest.parts} == before.manifest.parts
    assert embeddings_digest(store.manifest) == load_moments(layout.moments).embeddings_digest
    moments(MomentsParams(), layout, RUNTIME)
    assert files(layout.moments.parent)["moments.h5"] == measured
    # What the teacher says of each caption alone, and whose it is.
    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    rows, offsets = store.text("captions/synthetic").load(), store.offsets_of("captions/synthetic")
    lines = list(some_lines().values())
    assert np.diff(offsets).tolist() == [len(own) for own in lines] + 10 * [0]
    texts = [text for own in lines for text in own]
    np.testing.assert_allclose(rows, teacher.embed_tokens(teacher.tokenize(texts)), atol=1e-5)
    shas = [sha.decode() for sha in store.caption_hashes("captions/synthetic")]
    assert shas == [sha256(text.encode()).hexdigest() for text in texts]


def test_a_changed_caption_embeds_its_shard_alone_and_an_earlier_file_is_found_again(
    layout: Layout, tmp_path: Path, tiny_teacher: str, asked: dict[str, int]
) -> None:
    path, section = tmp_path / "c.jsonl", {"teacher": {"model": tiny_teacher}}
    add_captions(layout, synthetic=written(path, some_lines()))
    embed_all(layout, section, ("train",))
    first = files(layout.embeddings("train"))
    add_captions(layout, synthetic=written(path, {**some_lines(), "000017": ["something else"]}))
    asked.update(images=0, texts=0)
    embed_all(layout, section, ("train",))
    assert asked == {"images": 0, "texts": sum(len(own) for own in list(some_lines().values())[16:]) - 1}
    changed = files(layout.embeddings("train"))
    assert {name for name in first if first[name] != changed[name]} == {
        "manifest.json", *(f"captions/synthetic/shard-{number:05d}.h5" for number in range(3)),
    }  # fmt: skip
    add_captions(layout, synthetic=written(path, some_lines()))
    asked.update(images=0, texts=0)
    embed_all(layout, section, ("train",))
    assert (asked, files(layout.embeddings("train"))) == ({"images": 0, "texts": 0}, first)


def test_every_teacher_that_reads_embeds_them_and_an_ensemble_joins_them(
    layout: Layout,
    tmp_path: Path,
    tiny_teacher: str,
    image_weights: Path,  # noqa: F811
) -> None:
    b = written(tmp_path / "b.jsonl", some_lines(3))
    add_captions(layout, synthetic=written(tmp_path / "c.jsonl", some_lines()), b=b)
    embed_all(layout, {"teachers": {"a": {"model": tiny_teacher}, "c": image_model(image_weights)}}, ("train",))
    a, c = (EmbeddingStore.open(folder) for folder in teacher_folders(layout.embeddings("train")).values())
    assert (a.manifest.caption_files, c.manifest.caption_files) == (["b", "synthetic"], [])
    joint = join_stores([a, c])
    rows = joint.text("captions/synthetic").load()
    unit = a.text("captions/synthetic").load().astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(rows[:, :16], unit, atol=1e-6)
    assert not rows[:, 16:].any()


def test_verify_and_info_know_them_and_gc_keeps_what_is_claimed(
    layout: Layout, tmp_path: Path, tiny_teacher: str
) -> None:
    path, section = written(tmp_path / "c.jsonl", some_lines()), {"teacher": {"model": tiny_teacher}}
    split = add_captions(layout, synthetic=path)
    embed_all(layout, section, ("train",))
    folder = layout.embeddings("train")
    check = lambda: check_embeddings(folder, split.folder)  # noqa: E731
    assert collect_faults(check) + collect_faults(lambda: check_packed(split.folder)) == []
    rows = {str(item.path.relative_to(layout.root)): item.rows for item in info(layout, ["train"]).holdings}
    assert rows["data/packed/train/captions/synthetic"] == rows["data/embeddings/train/captions/synthetic"] == 45
    assert not any("captions" in path.name for path in gc(layout, tuple(IMAGES), []).removed)
    # Packed anew and not embedded, or the other way round.
    stale = add_captions(layout, synthetic=written(path, some_lines(20)))
    assert any("captions 'synthetic' are" in fault for fault in collect_faults(check))
    with pytest.raises(StaleError, match=r"captions 'synthetic' are \w{12} there and \w{12} among the embeddings"):
        require_same_captions(EmbeddingStore.open(folder).manifest, stale.folder, stale.caption_files, "synthetic")
    add_captions(layout)
    assert any("are missing there and" in fault for fault in collect_faults(check))
    removed = {path.name for path in gc(layout, tuple(IMAGES), []).removed}
    assert {f"train-captions-synthetic-{number:05d}.jsonl" for number in range(3)} <= removed


def test_plan_counts_them_and_knows_which_are_embedded(layout: Layout, tmp_path: Path, tiny_teacher: str) -> None:
    path = written(tmp_path / "c.jsonl", some_lines())
    add_captions(layout, synthetic=path)
    value = {"source": "sample", "part": "train", "images": ROWS, "caption_files": {"synthetic": {"file": str(path)}}}
    contents = count_split("train", parse_source(value, "index.train"))
    assert contents.further_captions == 45 / ROWS
    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu").identity.facts()
    progress, split = find_packed(contents, PackParams(shard_rows=16), layout)
    assert progress.is_whole
    assert split is not None
    assert find_listing(contents, layout).is_whole
    embed_all(layout, {"teacher": {"model": tiny_teacher}}, ("train",))
    assert count_embedded(split, teacher, ViewParams(crops=0), layout.store) == 3 * ROWS  # a view, own, further
    written(path, some_lines(9))
    changed = count_split("train", parse_source(value, "index.train"))
    assert not find_listing(changed, layout).is_whole
    _, without = find_packed(changed, PackParams(shard_rows=16), layout)
    assert without is not None
    assert count_embedded(without, teacher, ViewParams(crops=0), layout.store) == 2 * ROWS


def test_a_damaged_file_of_captions_is_one_line(layout: Layout, tmp_path: Path, tiny_teacher: str) -> None:
    split = add_captions(layout, synthetic=written(tmp_path / "c.jsonl", some_lines()))
    path = split.folder / "captions/synthetic/shard-00001.jsonl"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    path.write_text(text.replace("picture 20", "picture 21"), encoding="utf-8")
    assert [str(path) in fault for fault in collect_faults(lambda: check_packed(split.folder))] == [True]
    with pytest.raises(DamagedError, match=r"shard-00001.jsonl: SHA-256"):
        embed_all(layout, {"teacher": {"model": tiny_teacher}}, ("train",))


def test_whatever_is_odd_about_captions_is_a_line_each(
    layout: Layout, tmp_path: Path, tiny_teacher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {
        "000000": ["one", " one ", "", "  "],  # said twice, and two that say nothing
        "000001": " ".join(["cat"] * 14),  # as long as the teacher reads
        "000002": " ".join(["cat"] * 15),
        "999999": "of no image",
        "nobody.jpg": "of none either",
    }
    add_captions(layout, synthetic=written(tmp_path / "c.jsonl", odd))
    said = capsys.readouterr().err
    for line in (
        "captions 'synthetic': 37 of 40 images have none there, and go with their own captions",
        "captions 'synthetic': 2 names are no packed image and are left out, the first: '999999'",
        "captions 'synthetic': 2 captions are empty and are left out",
        "captions 'synthetic': 1 captions stand twice with one image, and count once",
    ):
        assert f"pack train: {line}\n" in said
    embed_all(layout, {"teacher": {"model": tiny_teacher}}, ("train",))
    said = capsys.readouterr().err
    assert said.count("captions 'synthetic'") == 1
    assert "embed train: captions 'synthetic': 1 have more than the 16 tokens that" in said
    embed_all(layout, {"teacher": {"model": tiny_teacher}}, ("train",))
    assert "captions" not in capsys.readouterr().err  # nothing was embedded, so nothing is said


@pytest.mark.parametrize(
    ("lines", "params", "message"),
    [
        ({"x.jpg": "a"}, {}, r"no caption of a packed image. Here images are named by key \('000000'\) .*'x.jpg'"),
        ({"000000": ""}, {}, "and there all captions are empty"),
        ({"000000": "a"}, {"caption_column": "text"}, r"c.jsonl:1: expected \{\"image\""),
        ({"000000": "a"}, {"file": "nowhere.jsonl"}, r"'index.train.caption_files.synthetic.file': no file nowhere"),
    ],
)
def test_a_file_that_fits_nothing_is_refused_in_one_line(
    layout: Layout, tmp_path: Path, lines: Lines, params: dict[str, str], message: str
) -> None:
    path = written(tmp_path / "c.jsonl", lines)
    with pytest.raises(UsageError, match=message) as error:
        add_captions(layout, synthetic={"file": str(path), **params})
    assert "\n" not in str(error.value)


def test_only_the_captioned_training_split_takes_further_captions(tmp_path: Path) -> None:
    named = {"caption_files": {"s": {"file": str(written(tmp_path / "c.jsonl", some_lines()))}}}
    val = {"source": "sample", "part": "val", "images": 8}
    badges = {"source": "sample", "part": "badges", "images": 8}
    for split, value, message in (("val", val, "students alone read"), ("train", badges, "has classes")):
        with pytest.raises(UsageError, match=message):
            index(split, parse_source({**value, **named}, f"index.{split}"), Layout(tmp_path))
    nested = {"source": "several", "sources": {"a": {**val, **named}}}
    with pytest.raises(UsageError, match=r"expected at 'index.train.caption_files', with images named .* 'a/'"):
        parse_source(nested, "index.train")
    path = parse_source({**val, "caption_files": {"a/b": named["caption_files"]["s"]}}, "index.train")
    with pytest.raises(UsageError, match="'a/b' is no name"):
        index("train", path, Layout(tmp_path))


def test_the_presets_captions_are_read_off_the_scenes_of_the_sample() -> None:
    document = yaml.safe_load((ROOT / "presets" / "teachers.yaml").read_text(encoding="utf-8"))
    params = parse_source(document["index"]["train"], "index.train").caption_files["complete"]
    lines = sample_captions(1000)
    assert (ROOT / str(params.file)).read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines)
    # What a scene is made of: nothing that a caption of it says is missing in the complete one.
    first, own = json.loads(lines[1]), render_image("train", 1).captions
    assert first == {"image": "000001", "caption": "a painting of a large white dog in the mountains"}
    assert any("white dog" in caption for caption in own)
    assert document["distill"]["training"]["caption_mix"] == {"complete": 0.5}


def test_a_file_that_changed_since_it_was_listed_is_refused(layout: Layout, tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", some_lines())
    value = {"source": "sample", "part": "train", "images": ROWS, "caption_files": {"s": {"file": str(path)}}}
    source = parse_source(value, "index.train")
    index("train", source, layout)
    listed = json.loads(layout.index("train").read_text(encoding="utf-8"))
    assert listed["caption_files"] == {"s": sha256(path.read_bytes()).hexdigest()}
    written(path, some_lines(9))
    with pytest.raises(PipelineError, match=r"c.jsonl: changed since it was listed. Run `index` again"):
        pack("train", source, PackParams(shard_rows=16), layout, RUNTIME)
