"""From packed choices to a fitted scorer: tokens in the cache, the stage `relate`, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.arrays import read_arrays, write_arrays
from cache.atomic import read_checksummed_json
from cache.errors import DamagedError
from cache.fingerprint import sha256
from cache.reader import EmbeddingStore
from cache.shard import read_shard
from cache.token_codecs import FORMATS
from cache.token_shard import PatchShard
from pipeline.commands.integrity_checks import check_embeddings
from pipeline.commands.verify import verify
from pipeline.data.images import decode
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.relate import RelateParams, relate
from pipeline.relations.choice_sets import read_choices
from pipeline.relations.fitting import fit_scorer
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorer_files import load_scorer
from pipeline.relations.scorers import build_scorer
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.token_shards import TokenParams
from pipeline.teacher.tokens import token_reader
from tests import ROOT
from tests.factories.fork_server import programs
from tests.relations.test_scorers import Quadrants

RUNTIME = Runtime(workers=0, batch=8, device="cpu")
TEACHER = TeacherParams(model=f"local-dir:{ROOT / 'presets' / 'sample-teacher'}")
SPLITS = {"relations": "relations-train", "held": "relations-val"}
RELATE = RelateParams(train="relations", sets=("held",))
DCSM = ScorerParams(kind="dcsm", epochs=1, columns=16)


def packed(layout: Layout, split: str, source: dict[str, object]) -> None:
    index(split, parse_source(source, f"index.{split}"), layout)
    pack(split, parse_source(source, f"index.{split}"), PackParams(shard_rows=10), layout, RUNTIME)


def embedded(layout: Layout, split: str, **tokens: object) -> EmbeddingStore:
    wanted = TokenParams(splits=(split,), grid=8, **tokens) if tokens else None  # type: ignore[arg-type]
    embed(split, EmbedParams(teacher=TEACHER, tokens=wanted), layout, RUNTIME)
    return EmbeddingStore.open(layout.embeddings(split))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two small choice sets with tokens. Do not change it: copy its root."""
    layout = Layout(tmp_path_factory.mktemp("relations"))
    for split, part in SPLITS.items():
        packed(layout, split, {"source": "sample", "part": part, "images": 16})
        embedded(layout, split, format="int8")
    return layout


@pytest.fixture
def copy(project: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(project.root, tmp_path / "copy", symlinks=True)
    return Layout(tmp_path / "copy")


def test_the_cache_has_the_tokens_that_the_teacher_says(project: Layout) -> None:
    store = EmbeddingStore.open(project.embeddings("relations"))
    reader = token_reader(load_teacher(TEACHER, "cpu"), 8)
    sample = next(open_packed(project.packed("relations")).read(0))
    pixels = np.asarray(decode(sample.image))[None]
    np.testing.assert_allclose(store.patches()[np.array([0])], reader.embed_patches(pixels), atol=0.01)
    # The control: another image's tokens are no such neighbours.
    assert np.abs(store.patches()[np.array([1])] - reader.embed_patches(pixels)).max() > 0.1
    words, numbers = store.words()[0]
    ids = reader.teacher.tokenize(sample.captions)
    np.testing.assert_allclose(words, reader.embed_words(ids)[0], atol=0.01)
    assert numbers.max() == len(sample.captions[0].split()) - 1
    text = store.text()[0]
    np.testing.assert_allclose(words[-1], text / np.linalg.norm(text), atol=0.01)


def test_foils_are_embedded_beside_the_caption_that_they_belong_to(project: Layout) -> None:
    store, split = EmbeddingStore.open(project.embeddings("relations")), open_packed(project.packed("relations"))
    samples = [sample for number in range(len(split.shards)) for sample in split.read(number)]
    assert [len(sample.choices) for sample in samples] == [1] * 16
    teacher = load_teacher(TEACHER, "cpu")
    said = teacher.embed_tokens(teacher.tokenize([sample.choices[0].foils[0] for sample in samples]))
    np.testing.assert_allclose(store.foils().load(), said, atol=1e-4)
    assert store.shards("foils")[0].keys[0] == f"{samples[0].key}#0"
    assert list(check_embeddings(project.embeddings("relations"), project.packed("relations"))) == []


def test_tokens_are_added_without_touching_what_is_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    packed(layout, "relations", {"source": "sample", "part": "relations-train", "images": 12})
    before = embedded(layout, "relations").manifest
    hashes = {path: sha256(path) for path in sorted(layout.embeddings("relations").rglob("*.h5"))}
    inodes = {path: path.stat().st_ino for path in hashes}
    after = embedded(layout, "relations", format="float16").manifest
    assert {name: after.parts[name] for name in before.parts} == before.parts
    assert after.parts.keys() - before.parts.keys() == {"patches/view-00", "words", "foil-words"}
    assert {path: sha256(path) for path in hashes} == hashes
    assert {path: path.stat().st_ino for path in hashes} == inodes


def test_a_split_without_tokens_and_choices_is_what_it_was(tmp_path: Path) -> None:
    """Neither the parameters' dump nor a packed shard's digests know of what is not there."""
    assert "tokens" not in EmbedParams(teacher=TEACHER).model_dump(mode="json")
    layout = Layout(tmp_path)
    packed(layout, "val", {"source": "sample", "part": "val", "images": 3})
    split = open_packed(layout.packed("val"))
    lines = [json.dumps([s.key, list(s.captions)], sort_keys=True, separators=(",", ":")) for s in split.read(0)]
    assert split.shards[0].captions_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert "choices" not in split.counts


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "pq"])
@pytest.mark.parametrize("rank", [None, 32])
def test_every_codec_keeps_its_bound_on_real_tokens(copy: Layout, form: str, rank: int | None) -> None:
    exact = embedded(copy, "held", format="float32")
    rows = np.arange(4)
    maps = np.einsum("npd,td->npt", exact.patches()[rows], exact.words()[0][0])
    near = embedded(copy, "held", format=form, rank=rank)
    found = np.einsum("npd,td->npt", near.patches()[rows], near.words()[0][0])
    (r_p, e_p), (r_w, e_w) = (near.shards(part)[0].error for part in ("patches/view-00", "words"))
    error = np.abs(maps - found).max()
    assert error <= r_p * r_w + e_p + e_w + e_p * e_w + 1e-5
    assert (error > 1e-6) == (form != "float32" or rank is not None)


def test_relate_writes_a_scorer_and_its_accuracy_beside_cosine_chance_and_blind(copy: Layout) -> None:
    relate("dcsm", DCSM, RELATE, copy, RUNTIME)
    metrics = json.loads((copy.scorer("dcsm") / "metrics.json").read_text())
    place = metrics["sets"]["held"]["place"]
    assert place["scorer"]["questions"] == place["cosine"]["questions"] == 4
    assert (place["blind"], place["scorer"]["text_chance"]) == (0.5, 0.5)
    scorer, card = load_scorer(copy.scorer("dcsm"))
    assert card["parameters"] == metrics["parameters"] == sum(p.numel() for p in scorer.parameters())
    assert (copy.scorer("dcsm") / "history.csv").read_text().startswith("epoch,loss\n1,")


def test_a_scorer_is_fitted_again_only_where_something_changed(copy: Layout) -> None:
    def fitted(params: ScorerParams) -> tuple[int, str]:
        relate("dcsm", params, RELATE, copy, RUNTIME)
        path = copy.scorer("dcsm") / "scorer.safetensors"
        return path.stat().st_mtime_ns, sha256(path)

    first = fitted(DCSM)
    assert fitted(DCSM) == first
    assert fitted(replace_seed(DCSM, 1))[1] != first[1]
    assert fitted(DCSM)[1] == first[1], "two runs give the same bytes"


def replace_seed(params: ScorerParams, seed: int) -> ScorerParams:
    return params.model_copy(update={"seed": seed})


def test_a_fit_that_was_stopped_ends_in_the_same_bytes(tmp_path: Path) -> None:
    train, params = Quadrants(8, 1), ScorerParams(kind="dcsm", columns=3, epochs=3)
    whole = build_scorer(params, 16, 16)
    history = fit_scorer(whole, train.choices, train, params)

    class Stopped(Exception):  # noqa: N818
        pass

    class Interrupted(Quadrants):
        steps = 0

        def images(self, rows: np.ndarray):  # type: ignore[no-untyped-def]
            self.steps += 1
            if self.steps == 6:
                raise Stopped
            return super().images(rows)

    state, broken = tmp_path / "state.safetensors", Interrupted(8, 1)
    scorer = build_scorer(params, 16, 16)
    with pytest.raises(Stopped):
        fit_scorer(scorer, broken.choices, broken, params, state=state)
    resumed = build_scorer(params, 16, 16)
    assert fit_scorer(resumed, train.choices, train, params, state=state) == history
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_relate_never_asks_for_the_teacher(copy: Layout) -> None:
    """In a process of its own in which open_clip cannot build a model."""
    code = (
        "import open_clip, open_clip.factory\n"
        "def refuse(*a, **k): raise RuntimeError('the teacher was asked for')\n"
        "open_clip.create_model = open_clip.factory.create_model = refuse\n"
        "from pathlib import Path\n"
        "from pipeline.project.layout import Layout\n"
        "from pipeline.project.params import Runtime\n"
        "from pipeline.relate import RelateParams, relate\n"
        "from pipeline.relations.params import ScorerParams\n"
        "relate('late', ScorerParams(kind='late'), RelateParams(train='relations', sets=('held',)),"
        f" Layout(Path({str(copy.root)!r})), Runtime(workers=0, device='cpu'))\n"
    )
    subprocess.run([programs() / "python", "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (copy.scorer("late") / "metrics.json").exists()


def test_tokens_that_were_never_embedded_are_one_line(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for split, part in SPLITS.items():
        packed(layout, split, {"source": "sample", "part": part, "images": 8})
        embedded(layout, split)
    with pytest.raises(UsageError, match=r"has no patches/view-00, words, foil-words, which dcsm reads: add"):
        relate("dcsm", DCSM, RELATE, layout, RUNTIME)
    relate("labclip", ScorerParams(kind="labclip", epochs=1), RELATE, layout, RUNTIME)
    assert (layout.scorer("labclip") / "metrics.json").exists()


def test_a_caption_longer_than_the_context_is_one_line(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(images / "a.png")
    question = {"image": "a.png", "caption": "a cat " * 40 + "sat", "foils": ["a cat " * 40 + "ran"]}
    (tmp_path / "table.jsonl").write_text(json.dumps(question) + "\n")
    source: dict[str, object] = {
        "source": "choices",
        "images": str(images),
        "table": str(tmp_path / "table.jsonl"),
        "layout": "lines",
    }
    layout = Layout(tmp_path / "project")
    packed(layout, "relations", source)
    with pytest.raises(
        UsageError, match=r"'a cat a cat.*… has more than the 32 tokens that .*sample-teacher reads"
    ) as refused:
        embedded(layout, "relations", format="float16")
    assert "\n" not in str(refused.value)


def test_a_split_without_foils_is_no_choice_set(copy: Layout) -> None:
    packed(copy, "val", {"source": "sample", "part": "val", "images": 4})
    embedded(copy, "val")
    with pytest.raises(UsageError, match="no choice set: its images have captions, but no foils"):
        relate("labclip", ScorerParams(kind="labclip"), RelateParams(train="val", sets=("held",)), copy, RUNTIME)


def test_a_caption_longer_than_the_scorers_columns_is_named(copy: Layout) -> None:
    with pytest.raises(UsageError, match=r"tokens, and the scorer 4 columns for them: raise its `columns`"):
        relate("dcsm", DCSM.model_copy(update={"columns": 4}), RELATE, copy, RUNTIME)


def test_sets_of_two_teachers_are_refused(copy: Layout, tiny_teacher: str) -> None:
    embed("held", EmbedParams(teacher=TeacherParams(model=tiny_teacher)), copy, RUNTIME)
    with pytest.raises(UsageError, match=r"was embedded by .*tiny, and the scorer is fitted on"):
        relate("labclip", ScorerParams(kind="labclip"), RELATE, copy, RUNTIME)


def test_a_changed_scorer_is_refused(copy: Layout) -> None:
    relate("late", ScorerParams(kind="late"), RELATE, copy, RUNTIME)
    weights = copy.scorer("late") / "scorer.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(DamagedError, match="its card says"):
        load_scorer(copy.scorer("late"))
    result = verify(copy)
    assert [fault for fault in result.faults if "its card says" in fault]
    weights.write_bytes(weights.read_bytes()[:-1])
    assert verify(copy).faults == []


def test_a_shard_of_tokens_with_another_codec_than_its_codes_is_refused(copy: Layout, tmp_path: Path) -> None:
    path = copy.embeddings("held") / "patches" / "view-00" / "shard-00000.h5"
    file = read_arrays(path)
    whole = dict(file.arrays)
    for name, change in {"codec": np.array([b"float16"]), "scale": None}.items():
        arrays = {**whole, name: change}
        write_arrays(tmp_path / path.name, {n: a for n, a in arrays.items() if a is not None}, file.attributes)
        with pytest.raises(DamagedError, match="not a shard of embeddings"):
            read_shard(tmp_path / path.name, PatchShard)


def test_questions_come_back_from_the_packed_split(project: Layout) -> None:
    choices = read_choices(open_packed(project.packed("held")))
    assert choices.tasks == ("binding", "place", "negation", "number")
    assert [question.image for question in choices.questions] == list(range(16))
    assert all(len(partners) == 1 for partners in choices.counterparts)
    assert replace(choices.questions[0], image=1).caption == choices.questions[0].caption


def test_the_record_of_a_scorer_changes_with_its_weights_and_is_checked(copy: Layout) -> None:
    """DVC sees by it that an evaluation was of another scorer."""
    record = copy.root / "data" / "scorers" / "labclip.json"
    written = []
    for seed in (0, 0, 1):
        relate("labclip", ScorerParams(kind="labclip", epochs=1, seed=seed), RELATE, copy, RUNTIME)
        card = load_scorer(copy.scorer("labclip"))[1]
        assert read_checksummed_json(record)["weights_sha256"] == card["weights_sha256"]
        written.append(record.read_bytes())
    assert written[0] == written[1] != written[2]
    assert verify(copy).faults == []
    record.write_bytes(record.read_bytes().replace(b"labclip", b"dcsm"))
    assert [fault for fault in verify(copy).faults if "labclip.json" in fault]
