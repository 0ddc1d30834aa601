"""A domain left out: nothing of it is learnt from, and it cannot be smuggled in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.comparison.arms import WORD_CONTROLS, permute_words, randomize_words
from pipeline.comparison.leave_one_out import LeaveOneOutRunner, teacher_scores
from pipeline.comparison.params import CompareParams, ComparisonSetup
from pipeline.comparison.runner import Trial
from pipeline.project.errors import PipelineError, UsageError
from tests.factories.domains import CLASSES, DOMAINS, domain_images, domain_project, pack_domains


def bench(root: Path, **changes: object) -> LeaveOneOutRunner:
    found = domain_project(root, **changes)
    opened = ComparisonSetup(found.section("compare", CompareParams), found).open()
    assert isinstance(opened, LeaveOneOutRunner)
    return opened


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    domain_images(root)
    pack_domains(root)
    return root


def test_a_fold_learns_from_the_others_and_tests_on_every_image_of_the_one(world: Path) -> None:
    fold = bench(world).folds["print"].fold
    assert set(fold.train.domains) == {"cartoon", "sketch"} == set(fold.validation.domains)
    assert {domain for rows in fold.test for domain in rows.domains} == {"print"}
    assert (len(fold.train.rows), len(fold.validation.rows), len(fold.labels)) == (36, 18, 27)
    every = [key for rows in (fold.train, *fold.test[:1]) for key in rows.keys]
    assert sorted(every) == fold.train.split.store.keys
    assert "print" not in fold.sources


def test_targets_words_and_moments_are_of_the_sources_alone(world: Path) -> None:
    made = bench(world)
    fold = made.folds["print"].fold
    arm = made.arm("rise", fold)
    targets, store = fold.targets(arm.space), fold.train.split.store
    np.testing.assert_array_equal(targets.image[0], arm.space.to_target(store.image()[fold.train.rows]))
    np.testing.assert_array_equal(targets.labels, fold.train.labels)
    assert fold.moments("l2").image.count == 36
    rows = store.image()[fold.train.rows].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(fold.moments("l2").image.mean, rows.mean(axis=0), atol=1e-6)
    prompts = np.asarray(store.prompts().embedding).reshape(len(CLASSES), len(DOMAINS), -1).astype(np.float64)
    prompts /= np.linalg.norm(prompts, axis=-1, keepdims=True)
    own = prompts[:, [0, 2]]  # of cartoon and sketch, not of print
    np.testing.assert_allclose(np.asarray(targets.domains), own, atol=1e-6)
    mean = own.mean(axis=1)
    np.testing.assert_allclose(
        np.asarray(targets.classes), mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize("words", ["prompts", "sources"])
def test_another_held_out_domain_changes_nothing_but_the_test(world: Path, tmp_path: Path, words: str) -> None:
    domain_images(tmp_path, {"print": 3})
    pack_domains(tmp_path)
    trial = Trial("rise", 1, 1e-2, 2, "print")
    one, two = (bench(root, words=words).run(trial, tmp_path / "state") for root in (world, tmp_path))
    assert one.start == two.start  # losses, temperature and gradients before the first step
    sources = {name for name in one.final if name.startswith("sources")}
    assert {name: one.final[name] for name in sources} == {name: two.final[name] for name in sources}
    assert all(one.curves[name] == two.curves[name] for name in sources)
    # Negative control: a change of a domain that is learnt from is seen.
    other = Trial("rise", 1, 1e-2, 2, "sketch")
    one, two = (bench(root, words=words).run(other, tmp_path / "state") for root in (world, tmp_path))
    assert one.start != two.start


@pytest.mark.parametrize(("split", "source"), [("train", "sketch"), ("val", "cartoon")])
def test_a_held_out_image_among_the_sources_is_refused_also_under_another_name(
    tmp_path: Path, split: str, source: str
) -> None:
    domain_images(tmp_path)
    # Other bytes, the same picture.
    planted = Image.open(tmp_path / "images" / "train" / "print" / "car" / "2.png")
    planted.save(tmp_path / "images" / split / source / "car" / "mine.png", compress_level=1)
    pack_domains(tmp_path)
    with pytest.raises(UsageError, match=r"'\w+/car/\w+' of \w+ shows the same as .*'print'.* is held out"):
        bench(tmp_path)
    # Negative control: where neither of the two domains is left out, it is only a picture that stands there twice.
    free = next(domain for domain in DOMAINS if domain not in ("print", source))
    assert bench(tmp_path, leave_out=[free]).folds.keys() == {free}


def test_arms_share_weights_and_batches_in_a_fold_and_differ_in_what_they_are_taught(world: Path) -> None:
    made = bench(world, targets=["ce", "rise", "permuted", "random"])
    runs = {name: made.build(Trial(name, 4, 1e-2, 1, "sketch")) for name in made.arms}
    first = runs["ce"]
    for run in runs.values():
        for key, value in first.student.backbone.state_dict().items():
            assert value.equal(run.student.backbone.state_dict()[key])
        np.testing.assert_array_equal(run.feed.batch_at(3).rows, first.feed.batch_at(3).rows)
        assert run.feed.batch_at(3).pixels.equal(first.feed.batch_at(3).pixels)
        assert run.objective.teacher_scale == first.objective.teacher_scale  # placebos have the true words' temperature
    assert not np.array_equal(np.asarray(runs["permuted"].feed.targets.classes), np.asarray(first.feed.targets.classes))


def test_placebos_keep_all_but_the_meaning_of_words(world: Path) -> None:
    made = bench(world)
    fold = made.folds["print"].fold
    true = fold.targets(made.arm("rise", fold).space)
    permuted, random = permute_words(true), randomize_words(true)
    assert true.classes is not None
    assert true.domains is not None
    assert permuted.classes is not None
    assert random.classes is not None
    moved = [int(np.flatnonzero((true.classes == row).all(axis=1))[0]) for row in permuted.classes]
    assert sorted(moved) == [0, 1, 2]
    assert all(here != there for here, there in enumerate(moved))
    np.testing.assert_array_equal(permuted.domains, true.domains[moved])
    np.testing.assert_allclose(random.classes @ random.classes.T, np.eye(3), atol=1e-6)
    for each in (permuted, random):
        np.testing.assert_array_equal(each.teacher_classes, true.classes)
        np.testing.assert_array_equal(each.image, true.image)
        np.testing.assert_allclose(np.linalg.norm(np.asarray(each.domains), axis=-1), 1, atol=1e-6)
    with pytest.raises(UsageError, match="no 3 orthogonal vectors in 2 dimensions"):
        randomize_words(replace(true, classes=true.classes[:, :2]))
    assert set(WORD_CONTROLS) == {"permuted-words", "random-words"}


def test_words_fitted_to_the_sources_name_the_sources_images(world: Path) -> None:
    made = bench(world, words="sources")
    fold = made.folds["sketch"].fold
    space = made.arm("ce", fold).space
    words, domains = fold.class_words(space)
    rows = space.to_target(fold.train.embedding())
    taught = np.mean((rows @ words.T).argmax(axis=1) == fold.train.labels)
    assert taught > 0.6
    assert domains.shape == (3, 2, words.shape[1])
    found = teacher_scores(fold, space)
    assert found["teacher accuracy"] == found["probe accuracy"]
    spoken = teacher_scores(bench(world).folds["sketch"].fold, space)
    assert found["prompts accuracy"] == spoken["prompts accuracy"] == spoken["teacher accuracy"]
    assert found["majority"] == pytest.approx(1 / 3)
    # Negative control: words drawn at random name hardly more than chance.
    drawn = bench(world).folds["sketch"].fold.class_words(space)[0]
    assert np.mean((rows @ drawn.T).argmax(axis=1) == fold.train.labels) < taught - 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leave_out": ["skech"]}, "no domain 'skech' in train; did you mean 'sketch'"),
        ({"arms": {"ce": {"loss": {"label": 1.0}, "target": {"method": "zca"}}}, "targets": ["ce"]}, "method: raw"),
    ],
)
def test_what_cannot_be_left_out_is_said_in_one_line(world: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises((UsageError, PipelineError), match=said):
        bench(world, **changes).build(Trial("ce", 1, 1e-2, 1, "print"))
