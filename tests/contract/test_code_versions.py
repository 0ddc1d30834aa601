"""Version numbers and followed digests: what commands print, what DVC reads, and how code is accepted."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.atomic import TEMP_SUFFIX
from pipeline.project import code_versions
from pipeline.project.code_digest import code_digest
from pipeline.project.code_versions import (
    FOLLOWED,
    MADE_BY,
    NUMBERED,
    StageCode,
    accept_code,
    code_identity,
    code_version,
    record_code,
    record_maker,
)
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Return a project whose versions file may be written to, with today's code recorded."""
    versions = tmp_path / "versions.json"
    numbered = {unit: {"version": code_version(unit), "digest": code_digest(unit)} for unit in NUMBERED}
    versions.write_text(json.dumps({"numbered": numbered, "accepted": {}}))
    monkeypatch.setattr(code_versions, "VERSIONS", versions)
    monkeypatch.setattr(code_versions, "ROOT", tmp_path)
    record_code(Layout(tmp_path))
    return Layout(tmp_path)


def edit(monkeypatch: pytest.MonkeyPatch, *units: str) -> None:
    """Let the code of some units have another digest."""
    monkeypatch.setattr(code_versions, "code_digest", lambda unit: "e" * 12 if unit in units else code_digest(unit))
    monkeypatch.setattr(code_versions, "source_digest", lambda: "edited")


def recorded(layout: Layout) -> dict[str, str]:
    return dict(json.loads(layout.code.read_text()))


@pytest.mark.parametrize("unit", NUMBERED)
def test_code_with_a_version_number_is_the_code_that_the_number_was_given_to(unit: str) -> None:
    """Fails until a change of deciding code is either given a new number or accepted as without effect."""
    entry = json.loads(code_versions.VERSIONS.read_text(encoding="utf-8"))["numbered"][unit]
    assert entry["digest"] == code_digest(unit), (
        f"the code that decides what `{unit}` writes has changed. If its files differ from before, raise its number in "
        f"pipeline/versions.json: everybody's are made again. Then, or if nothing differs, run "
        f"`python cli.py accept {unit}` and commit pipeline/versions.json."
    )


def test_an_edit_changes_the_identity_of_that_unit_alone_and_is_printed_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = recorded(layout)
    edit(monkeypatch, "distill")
    record_code(layout)
    after = recorded(layout)
    assert {unit for unit in FOLLOWED if before[unit] != after[unit]} == {"distill"}
    printed = capsys.readouterr().err
    assert f"code of distill changed ({before['distill']} -> {'e' * 12})" in printed
    assert "python cli.py accept distill" in printed
    record_code(layout)
    assert capsys.readouterr().err == ""


def test_processes_that_end_together_after_an_edit_take_turns(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(monkeypatch, "distill")
    with ThreadPoolExecutor(8) as pool:  # each opens the lock's file by itself, as a process does
        for done in [pool.submit(record_code, layout) for _ in range(32)]:
            done.result()
    assert recorded(layout)["distill"] == "e" * 12
    assert capsys.readouterr().err.count("code of distill changed") == 1


def test_accepted_code_counts_as_the_code_before(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded(layout)
    edit(monkeypatch, "distill", "embed")
    # Also where `dvc repro` has begun, and written the new digest down.
    record_code(layout)
    accepted = accept_code((), layout)
    assert [(one.unit, one.counts_as) for one in accepted] == [("embed", "version 1"), ("distill", before["distill"])]
    assert {unit: recorded(layout)[unit] for unit in FOLLOWED} == {unit: before[unit] for unit in FOLLOWED}
    assert code_identity("distill") == before["distill"]
    assert accept_code((), layout) == []
    # The next edit is another digest again.
    monkeypatch.setattr(code_versions, "code_digest", lambda unit: "f" * 12)
    assert code_identity("distill") == "f" * 12


def test_only_what_is_named_is_accepted(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(monkeypatch, "distill", "evaluate")
    assert [one.unit for one in accept_code(["evaluate"], layout)] == ["evaluate"]
    assert recorded(layout)["distill"] == "e" * 12
    with pytest.raises(UsageError, match="no code 'destill'; did you mean 'distill'"):
        accept_code(["destill"], layout)


def test_files_made_by_other_code_of_the_same_number_are_named(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = layout.store / "embed-0123"
    folder.mkdir(parents=True)
    record_maker(folder, "embed")
    (folder / "shard-00000.h5").touch()
    record_maker(folder, "embed")
    assert capsys.readouterr().err == ""
    edit(monkeypatch, "embed")
    record_maker(folder, "embed")
    assert "made by another code of embed" in capsys.readouterr().err
    # Of a folder of older versions it is not known.
    (folder / MADE_BY).unlink()
    record_maker(folder, "embed")
    assert capsys.readouterr().err == ""


def test_a_folder_whose_first_write_was_stopped_says_who_makes_it_and_keeps_no_half_file(tmp_path: Path) -> None:
    (tmp_path / f".{MADE_BY}{TEMP_SUFFIX}").write_bytes(b"{")
    record_maker(tmp_path, "embed")
    assert [path.name for path in tmp_path.iterdir()] == [MADE_BY]


def test_an_edit_of_its_code_while_a_stage_runs_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    code = StageCode.snapshot("distill")
    code.record(layout)
    monkeypatch.setattr(code_versions, "present_digest", lambda unit: "e" * 12)
    with pytest.raises(PipelineError, match="distill: its code changed while it ran"):
        code.record(layout)
