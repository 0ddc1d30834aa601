"""params.yaml is read once, checked by section, and a mistake in it is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from pipeline.comparison.params import CompareParams
from pipeline.data.packing.jobs import PackParams
from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection, load_params, lookup, parse, parse_section, renamed
from pipeline.students.losses.objective import LossParams
from pipeline.students.training.params import TrainingParams


class Zca(ParamsSection):
    method: str = "zca"
    floor: float = Field(default=0.01, ge=0)


class Training(ParamsSection):
    learning_rate: float
    epochs: int = 1


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text("whiten:\n  zca: {method: zca, floor: 1e-2}\ndistill:\n  training: {learning_rate: 1e-3}\n")
    return path


class Renamed(ParamsSection):
    """A section with a key that had another name."""

    size: int = renamed("side", default=1)


class Outer(ParamsSection):
    """One that holds it."""

    inner: Renamed = Renamed()


def test_a_key_that_had_another_name_is_refused_with_its_new_one_and_keeps_fingerprints() -> None:
    with pytest.raises(UsageError, match=r"^params: 'a\.inner\.side' is called 'size' now$"):
        parse({"inner": {"side": 2}}, "a", Outer)
    assert parse({"inner": {"size": 2}}, "a", Outer).inner.size == 2
    assert Outer(inner=Renamed(size=2)).model_dump(mode="json") == {"inner": {"side": 2}}  # as it was before
    with pytest.raises(UsageError, match=r"unknown key 'a\.inner\.sise'; did you mean 'size'"):
        parse({"inner": {"sise": 2}}, "a", Outer)


def test_a_number_that_yaml_reads_as_a_string_is_the_number_it_looks_like(params: Path) -> None:
    document = load_params(params)
    assert lookup(document, "distill.training.learning_rate") == 1e-3
    # And where something else wrote it as a string, the section still reads it as a number.
    assert parse({"learning_rate": "1e-05"}, "distill.training", Training).learning_rate == 1e-5


class Mixed(ParamsSection):
    count: int = 1
    share: float = 1.0
    flag: bool = False
    sizes: tuple[int, ...] = ()
    either: str | int = 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", True),
        ("count", "010"),
        ("count", "0o10"),
        ("count", "1:30"),
        ("share", True),
        ("share", "yes"),
        ("share", float("inf")),
        ("share", float("nan")),
        ("flag", 1),
        ("flag", "yes"),
        ("sizes", [1, True]),
        ("sizes", [1, "08"]),
        ("count", "5" * 5000),
        ("count", 10**30),
        ("count", 2.5),
    ],
)
def test_nothing_is_taken_for_a_number_or_a_truth_value_that_was_not_written_as_one(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"^params: 'a\.{key}") as caught:
        parse({key: value}, "a", Mixed)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_numbers_truth_values_and_text_are_what_they_were_written_as() -> None:
    found = parse({"count": 3, "share": 2, "flag": True, "sizes": [1, 2], "either": "010"}, "a", Mixed)
    assert (found.count, found.share, found.flag, found.sizes, found.either) == (3, 2.0, True, (1, 2), "010")


def test_an_override_beats_the_file_and_the_file_beats_the_default(params: Path) -> None:
    assert parse_section(load_params(params), "whiten.zca", Zca).floor == 0.01
    document = load_params(params, ["whiten.zca.floor=1e-3", "whiten.soft.method=zca"])
    assert parse_section(document, "whiten.zca", Zca).floor == 1e-3
    assert parse_section(document, "whiten.soft", Zca).floor == 0.01
    assert parse_section(document, "distill.training", Training).epochs == 1


def test_an_override_changes_nothing_beside_its_key(params: Path) -> None:
    before, after = load_params(params), load_params(params, ["whiten.zca.floor=0.5"])
    assert after["distill"] == before["distill"]
    assert after["whiten"]["zca"]["method"] == "zca"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("floor", -1, "'whiten.zca.floor': input should be greater than or equal to 0, found -1"),
        ("flor", 1, "unknown key 'whiten.zca.flor'; did you mean 'floor'?"),
        ("floor", "much", "'whiten.zca.floor': input should be a valid number"),
    ],
)
def test_a_mistake_names_the_key_and_what_was_found(key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        parse({key: value}, "whiten.zca", Zca)


def test_a_mistyped_required_key_is_called_unknown_not_missing() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'distill.training.learning_rte'; did you mean 'learning_rate'"):
        parse({"learning_rte": 1}, "distill.training", Training)


def test_a_missing_section_names_the_nearest_one(params: Path) -> None:
    with pytest.raises(UsageError, match=r"no key 'whitten\.zca'; did you mean 'whiten'"):
        parse_section(load_params(params), "whitten.zca", Zca)


def test_a_missing_required_key_is_named(params: Path) -> None:
    with pytest.raises(UsageError, match=r"'distill.training.learning_rate' is required"):
        parse({}, "distill.training", Training)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\tkey: 1\n"])
def test_a_file_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_which_flag_names_another(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--params"):
        load_params(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["whiten.zca.floor", "=1", "a=[1"])
def test_an_override_that_is_not_key_equals_value_is_refused(params: Path, override: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        load_params(params, [override])


FORMER_KEYS = [
    (TrainingParams, {}, "watch", "zero_shot_set", "badges"),
    (TrainingParams, {}, "evaluations", "num_validations", 7),
    (TrainingParams, {}, "accumulate", "accumulation_steps", 2),
    (TrainingParams, {}, "ema", "ema_decay", 0.5),
    (TrainingParams, {}, "views", "max_views", 1),
    (TrainingParams, {}, "captions", "max_captions", 1),
    (LossParams, {"fd": 1.0}, "bank", "bank_size", 16),
    (CompareParams, {}, "choose_by", "selection_metric", "r2"),
    (CompareParams, {}, "watch", "zero_shot_set", "badges"),
    (PackParams, {}, "check", "image_check", "decode"),
]


@pytest.mark.parametrize(("model", "others", "former", "key", "value"), FORMER_KEYS, ids=str)
def test_each_former_key_is_refused_with_the_present_one_and_stays_in_what_is_hashed(
    model: type[ParamsSection], others: dict[str, object], former: str, key: str, value: object
) -> None:
    with pytest.raises(UsageError, match=rf"^params: 'a\.{former}' is called '{key}' now$"):
        parse({**others, former: value}, "a", model)
    hashed = parse({**others, key: value}, "a", model).model_dump(mode="json")
    assert hashed[former] == value
    assert key not in hashed
