"""The house: no name with two meanings, no class called by a participle, and what the script counts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from benchmarks.house import SHARED_NAMES, SMALL_WITH_A_REASON, is_participle, read_house
from benchmarks.house_walks import Tracer, Walk
from tests import ROOT


def test_no_public_name_has_two_meanings_and_no_class_is_called_by_a_participle() -> None:
    house = read_house(ROOT)
    assert house.ambiguous_names == {}
    assert house.participles == []
    assert house.long_functions == []
    assert {name for name in SHARED_NAMES if len(house.definitions[name]) < 2} == set()


def test_a_module_below_50_lines_has_a_second_importer_or_a_reason() -> None:
    house = read_house(ROOT)
    assert house.fragments == []
    assert [path for path in SMALL_WITH_A_REASON if path not in house.small_modules] == []
    assert [path for path in SMALL_WITH_A_REASON if len(house.importers.get(path, ())) > 1] == []


def test_a_small_module_for_one_importer_is_found(tmp_path: Path) -> None:
    """Negative control."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "cli.py").write_text("from cache import one\n" + "x = 1\n" * 50)
    (tmp_path / "cache" / "one.py").write_text("x = 1\n")
    assert read_house(tmp_path).fragments == ["cache/one.py"]
    (tmp_path / "pipeline" / "two.py").write_text("from cache.one import x\n" + "y = 1\n" * 50)
    assert read_house(tmp_path).fragments == []


def test_a_second_meaning_and_a_participle_are_found(tmp_path: Path) -> None:
    """Negative control."""
    (tmp_path / "cli.py").write_text("def pack():\n    pass\n")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "one.py").write_text("class Told:\n    pass\n\n\ndef read(x):\n    return x\n")
    (tmp_path / "pipeline" / "data").mkdir(parents=True)
    (tmp_path / "pipeline" / "data" / "two.py").write_text(
        "def read(y):\n    return y\n\n\ndef pack():\n" + "    x = 1\n" * 41
    )
    house = read_house(tmp_path)
    assert house.ambiguous_names == {"read": ["cache/one.py", "pipeline/data/two.py"]}
    assert house.participles == ["Told"]
    assert house.long_functions == ["pipeline/data/two.py:pack"]
    assert len(house.small_modules) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Said", True), ("ArmOpened", True), ("PackedSplit", False), ("Seed", False), ("SceneRng", False)],
)
def test_a_participle_is_judged_by_the_last_word(name: str, expected: bool) -> None:
    assert is_participle(name) is expected


def test_a_walk_counts_files_and_the_times_it_comes_back_to_one() -> None:
    walk = Walk(["a", "a", "b", "a", "c", "b"], [])
    assert (walk.files, walk.returns) == (3, 2)
    assert Walk(["a", "b", "c"], []).returns == 0


def test_the_tracer_sees_each_function_once_and_calls_to_a_module_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pipeline"
    package.mkdir()
    (package / "low_house.py").write_text("def call(back):\n    return back() if back else 1\n")
    (package / "top_house.py").write_text(
        "from low_house import call\n\n\ndef own():\n    return 2\n\n\n"
        "def run(back):\n    return call(own if back else None)\n"
    )
    monkeypatch.syspath_prepend(str(package))
    top_house = importlib.import_module("top_house")

    for back, expected in ((False, set()), (True, {("pipeline/low_house.py", "pipeline/top_house.py")})):
        tracer = Tracer(tmp_path)
        before = sys.getprofile()
        sys.setprofile(tracer)
        try:
            top_house.run(back)
            top_house.run(back)
        finally:
            sys.setprofile(before)
        assert tracer.modules[:2] == ["pipeline/top_house.py", "pipeline/low_house.py"]
        assert len(tracer.modules) == 2 + back
        assert tracer.calls_back == expected


def test_what_runs_while_a_module_is_imported_is_no_part_of_a_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pipeline"
    package.mkdir()
    (package / "table_house.py").write_text("def make():\n    return 1\n\n\nclass Row:\n    value = make()\n")
    (package / "start_house.py").write_text("def run():\n    import table_house\n\n    return table_house\n")
    monkeypatch.syspath_prepend(str(package))
    start_house = importlib.import_module("start_house")
    tracer, before = Tracer(tmp_path), sys.getprofile()
    sys.setprofile(tracer)
    try:
        table_house = start_house.run()
        imported = list(tracer.modules)
        table_house.make()
    finally:
        sys.setprofile(before)
    assert imported == ["pipeline/start_house.py"]
    assert tracer.modules == ["pipeline/start_house.py", "pipeline/table_house.py"]
