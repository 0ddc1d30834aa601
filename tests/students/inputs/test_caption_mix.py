"""Further captions in a share of the steps: which one a step shows is what the documented formula says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.project.errors import UsageError
from pipeline.project.params import parse
from pipeline.students.inputs.caption_mix import CaptionSet, choose_sets
from pipeline.students.inputs.loader import BatchLoader
from pipeline.students.inputs.targets import Targets
from pipeline.students.inputs.whitened_rows import even_rows
from pipeline.students.losses.objective import LossParams
from pipeline.students.losses.scaling import build_objective
from pipeline.students.training import loop as training
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.state import save_state
from tests.factories.students import DIM, ROWS, TEXT, made_feed, made_student, made_tokens, trained

LACKING = {3, 4, 20, 47}
"""Images that the file has no caption of."""


def caption_set(share: float, counts: np.ndarray | None = None, seed: int = 9) -> CaptionSet:
    """Return one or two captions of each image but the lacking ones, whose rows say which caption they are."""
    counts = np.array([0 if row in LACKING else 1 + row % 2 for row in range(ROWS)]) if counts is None else counts
    total = int(counts.sum())
    text = np.random.default_rng(seed).standard_normal((total, DIM)).astype(np.float32)
    text[:, 0] = 1000 + np.arange(total)
    return CaptionSet(text, np.concatenate([[0], np.cumsum(counts)]), made_tokens(total, seed=seed), share)


def mixed(*files: CaptionSet, **changes: Any) -> BatchLoader:
    feed = made_feed(**{"captions": 3, "bank_size": 40, "tokens": True, **changes})
    return replace(feed, targets=replace(feed.targets, caption_files=files))


def alone(file: CaptionSet, **changes: Any) -> BatchLoader:
    """Return a loader for which the captions of a file are all that there are."""
    feed = made_feed(**{"captions": 3, "bank_size": 40, "tokens": True, **changes})
    own = replace(feed.targets, text=file.text, offsets=file.offsets, tokens=file.tokens)
    return replace(feed, targets=own)


def assert_same_batches(one: BatchLoader, other: BatchLoader, steps: int = 7) -> None:
    for step in range(steps):
        a, b = one.batch_at(step), other.batch_at(step)
        pairs = [(a.tokens, b.tokens)]
        pairs += [
            (getattr(a.targets, name), getattr(b.targets, name)) for name in ("image", "text", "bank", "bank_mask")
        ]
        for left, right in pairs:
            assert left is not None
            assert right is not None
            assert torch.equal(left, right)


@pytest.mark.parametrize("max_captions", [None, 1])
def test_a_step_shows_the_captions_that_the_formula_says(max_captions: int | None) -> None:
    """The formula of docs/teachers.md, one image at a time, in plain Python."""
    files = caption_set(0.25), caption_set(0.4, np.full(ROWS, 2), seed=5)
    feed = mixed(*files, seed=6, max_captions=max_captions)
    own = np.asarray(feed.targets.text)
    shown = {0: 0, 1: 0, 2: 0}
    for step in range(12):
        epoch = step // feed.epoch_steps
        set_draw = np.random.default_rng([6, epoch, 5]).random(ROWS)
        caption_draw = np.random.default_rng([6, epoch, 3]).random(ROWS)
        batch = feed.batch_at(step)
        assert batch.targets.text is not None
        for place, row in enumerate(batch.rows.tolist()):
            u = set_draw[row]
            source = 1 if u < 0.25 else 2 if u < 0.25 + 0.4 else 0
            if source == 1 and row in LACKING:
                source = 0
            if source == 0:
                first, count, rows = 3 * row, 3, own
            else:
                file = files[source - 1]
                first, count, rows = int(file.offsets[row]), int(np.diff(file.offsets)[row]), file.text
            count = min(count, max_captions or count)
            number = first + int(caption_draw[row] * count)
            assert np.array_equal(batch.targets.text[place].numpy(), rows[number])
            assert feed.caption_sets(step)[place] == source
            assert feed.captions(step)[place] == number
            shown[source] += 1
    total = sum(shown.values())
    # The shares, but for what falls back: 4 images in 48 of a quarter; ± 3 deviations of 192 draws.
    for source, share in ((0, 0.35 + 0.25 / 12), (1, 0.25 * 11 / 12), (2, 0.4)):
        assert shown[source] / total == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / total))


def test_a_share_of_nothing_is_todays_training_and_one_of_everything_is_the_files_alone() -> None:
    whole = np.full(ROWS, 2)
    assert_same_batches(mixed(caption_set(0.0)), made_feed(captions=3, bank_size=40, tokens=True))
    assert_same_batches(mixed(caption_set(1.0, whole)), alone(caption_set(1.0, whole)))
    # Negative control: half of it is neither.
    for other in (made_feed(captions=3, bank_size=40, tokens=True), alone(caption_set(1.0, whole))):
        with pytest.raises(AssertionError):
            assert_same_batches(mixed(caption_set(0.5, whole)), other)


def test_images_that_the_file_lacks_go_with_their_own_captions() -> None:
    feed = mixed(caption_set(1.0))
    for step in range(6):
        rows, sets = feed.batch_at(step).rows, feed.caption_sets(step)
        assert {int(row) for row, chosen in zip(rows, sets, strict=True) if chosen == 0} == LACKING & set(rows.tolist())


def test_the_bank_has_captions_of_each_set_in_its_share_and_masks_the_images_own() -> None:
    file = caption_set(0.5)
    feed = mixed(file, bank_size=400)
    own = np.asarray(feed.targets.text)
    owner = {tuple(row): index // 3 for index, row in enumerate(own.tolist())}
    of_file = np.repeat(np.arange(ROWS), np.diff(file.offsets)).tolist()
    owner |= {tuple(row): image for image, row in zip(of_file, file.text.tolist(), strict=True)}
    from_file = 0
    for step in range(4):
        batch = feed.batch_at(step)
        assert batch.targets.bank is not None
        images = [owner[tuple(row)] for row in batch.targets.bank.tolist()]
        from_file += sum(row[0] >= 1000 for row in batch.targets.bank.tolist())
        expected = np.array(images)[None, :] == batch.rows[:, None]
        assert np.array_equal(np.asarray(batch.targets.bank_mask), expected)
        assert expected.any()
    assert from_file / 1600 == pytest.approx(0.5 * 11 / 12, abs=0.04)


def test_statistics_of_texts_are_those_of_what_steps_show() -> None:
    def sample(share: float, counts: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(mixed(caption_set(share, counts)).targets.text_sample)

    whole = np.full(ROWS, 2)
    assert np.array_equal(sample(0.0), np.asarray(made_feed(captions=3).targets.text))
    assert np.array_equal(sample(1.0, whole), caption_set(1.0, whole).text)
    half = sample(0.5, whole)
    assert (half[:, 0] >= 1000).mean() == pytest.approx(0.5, abs=0.01)
    assert len(half) == 2 * len(caption_set(1.0, whole).text)  # all of the smaller set
    quarter = sample(0.25)
    assert (quarter[:, 0] >= 1000).mean() == pytest.approx(0.25 * 11 / 12, abs=0.01)
    assert np.array_equal(even_rows(7, 7), np.arange(7))


def test_the_heads_of_several_teachers_see_the_same_captions_each_in_its_own_dimensions() -> None:
    from pipeline.whitening.spaces import Head

    file = caption_set(0.5)
    targets = mixed(file).targets
    reads, blind = Head(4, True), Head(DIM - 4, False)
    one, other = replace(targets, heads=(reads, blind)).by_head
    assert np.array_equal(one.caption_files[0].text, file.text[:, :4])
    assert (other.text, other.caption_files) == (None, ())


LOSS = {"fd": 1.0, "icl": 0.1, "infonce": 0.1, "temperature": "fit", "bank_size": 8}


def train(folder: Path, targets: Targets, **more: Any) -> dict[str, torch.Tensor]:
    feed = replace(made_feed(captions=3, bank_size=8, tokens=True), targets=targets)
    student, _ = trained(folder, feed=feed, student=made_student(text=TEXT), loss=LOSS, **more)
    return dict(student.state_dict()) | {f"text.{k}": v for k, v in student.text.state_dict().items()}  # type: ignore[union-attr]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_students_of_a_share_of_nothing_and_of_everything_are_those_of_one_set_bit_for_bit(tmp_path: Path) -> None:
    """Batches, units, fitted temperature, the heads' start: whatever is computed of captions."""
    whole = np.full(ROWS, 2)
    today = train(tmp_path / "today", made_feed(captions=3, tokens=True).targets)
    only = train(tmp_path / "only", alone(caption_set(1.0, whole)).targets)
    assert same(today, train(tmp_path / "none", mixed(caption_set(0.0, whole)).targets))
    assert same(only, train(tmp_path / "all", mixed(caption_set(1.0, whole)).targets))
    half = train(tmp_path / "half", mixed(caption_set(0.5, whole)).targets)
    assert not same(half, today)
    assert not same(half, only)


def test_a_run_of_a_mix_that_was_killed_and_resumed_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        """Stands for a kill."""

    targets = mixed(caption_set(0.5)).targets
    uninterrupted = train(tmp_path / "whole", targets)

    def save_then_die(path: Path, state: Any, facts: dict[str, Any]) -> None:
        save_state(path, state, facts)
        if facts["step"] == 4:
            raise KilledError

    monkeypatch.setattr(training, "save_state", save_then_die)
    with pytest.raises(KilledError):
        train(tmp_path / "cut", targets, every_seconds=0)
    monkeypatch.setattr(training, "save_state", save_state)
    torch.manual_seed(999)
    assert same(uninterrupted, train(tmp_path / "cut", targets))


def test_the_temperature_is_fitted_to_captions_of_each_set() -> None:
    whole = np.full(ROWS, 2)
    params = LossParams.model_validate({"icl": 1.0, "temperature": "fit"})
    scales = [
        build_objective(params, mixed(caption_set(share, whole)).targets).state_dict() for share in (0.0, 0.5, 1.0)
    ]
    assert len({float(value) for scale in scales for value in scale.values()}) >= 3


def test_shares_that_add_up_to_one_leave_no_rounding_to_chance() -> None:
    files = [replace(caption_set(0.0), share=share) for share in (0.7, 0.2, 0.1)]
    assert choose_sets(files, np.array([0.0, 0.7, 0.95, np.nextafter(1, 0)])).tolist() == [1, 2, 3, 3]
    assert choose_sets(files[:2], np.array([0.899, 0.9000001])).tolist() == [2, 0]
    assert choose_sets([], np.array([0.5])).tolist() == [0]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"a": 0.7, "b": 0.4}, "shares add up to 1.1, expected at most 1"),
        ({"a": -0.1}, "greater than or equal to 0"),
        ({"a": 1.5}, "less than or equal to 1"),
        ({"a": "0.5"}, "valid number"),
        ({"a": True}, "valid number"),
    ],
)
def test_shares_that_are_none_are_one_line(mix: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse({"caption_mix": mix}, "distill.training", TrainingParams)


def test_a_mix_of_nothing_is_no_parameter() -> None:
    plain = TrainingParams().model_dump(mode="json")
    assert TrainingParams(caption_mix={"a": 0.0}).model_dump(mode="json") == plain
    assert TrainingParams(caption_mix={"a": 0.5}).model_dump(mode="json") == {**plain, "caption_mix": {"a": 0.5}}
