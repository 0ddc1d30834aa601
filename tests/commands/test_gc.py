"""`gc` frees what no output claims, and nothing that somebody needs or makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import DamagedError
from cache.work_store import WorkStore
from pipeline.commands.gc import gc, print_result
from pipeline.commands.verify import verify
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole

ARMS = [("mobilenetv3", "zca")]


def work(layout: Layout, stage: str, mark: str, out: Path, *names: str) -> None:
    """Leave files in a workspace and claim them for an output."""
    store = WorkStore(layout.store)
    folder = store.workspace(stage, mark)
    for name in names or ("a", "deep/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)
    store.pin(stage, out, [f"{folder.name}/"])


def left(layout: Layout) -> set[str]:
    return {
        path.relative_to(layout.store).as_posix()
        for path in layout.store.rglob("*")
        if path.is_file() and path.suffix not in {".lock", ".claim"}
    }


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    work(made, "embed", "aaaaaaaaaaaa", made.embeddings("train"))
    work(made, "pixels", "bbbbbbbbbbbb", made.packed("train"))
    work(made, "distill", "cccccccccccc", made.model("mobilenetv3", "zca"))
    return made


def test_what_the_params_name_stays(layout: Layout) -> None:
    before = left(layout)
    result = gc(layout, ["train"], ARMS)
    assert (result.removed, result.size, left(layout)) == ((), 0, before)
    assert result.kept_size == 6000


def test_work_under_older_params_is_removed_with_its_empty_folders(layout: Layout) -> None:
    work(layout, "embed", "dddddddddddd", layout.embeddings("train"))
    result = gc(layout, ["train"], ARMS)
    assert {path.name for path in result.removed} == {"a", "b"}
    assert result.size == 2000
    assert not (layout.store / "embed-aaaaaaaaaaaa").exists()
    assert "embed-dddddddddddd/a" in left(layout)


def test_splits_and_arms_that_left_the_params_are_removed(layout: Layout) -> None:
    gc(layout, ["val"], [])
    assert left(layout) == set()


def test_a_run_by_hand_keeps_its_work_as_long_as_its_folder_is_there(layout: Layout) -> None:
    work(layout, "distill", "eeeeeeeeeeee", layout.run("mine"))
    layout.run("mine").mkdir(parents=True)
    gc(layout, ["train"], ARMS)
    assert "distill-eeeeeeeeeeee/a" in left(layout)
    layout.run("mine").rmdir()
    gc(layout, ["train"], ARMS)
    assert "distill-eeeeeeeeeeee/a" not in left(layout)


def test_parts_of_a_workspace_can_be_claimed(layout: Layout) -> None:
    work(layout, "pack", "ffffffffffff", layout.packed("val"), "old.tar", "old.json", "new.tar", "new.json")
    WorkStore(layout.store).pin("pack", layout.packed("val"), ["pack-ffffffffffff/new."])
    gc(layout, ["train", "val"], ARMS)
    assert {name for name in left(layout) if name.startswith("pack")} == {
        "pack-ffffffffffff/new.tar",
        "pack-ffffffffffff/new.json",
    }


def test_unfinished_files_go_even_where_the_rest_stays(layout: Layout) -> None:
    (layout.store / "embed-aaaaaaaaaaaa" / ".shard-00000.h5.unfinished").write_bytes(b"half")
    assert [path.name for path in gc(layout, ["train"], ARMS).removed] == [".shard-00000.h5.unfinished"]


def test_what_someone_works_on_now_is_left_alone_and_said(layout: Layout) -> None:
    with WorkStore(layout.store).lock("embed", "aaaaaaaaaaaa"):
        result = gc(layout, [], [])
    assert len(result.busy) == 1
    assert "held by process" in result.busy[0]
    assert left(layout) == {"embed-aaaaaaaaaaaa/a", "embed-aaaaaaaaaaaa/deep/b"}
    assert result.kept_size == 2000


def test_a_dry_run_removes_nothing_and_says_what_it_would(layout: Layout, tmp_path: Path) -> None:
    before = left(layout)
    result = gc(layout, [], [], dry=True)
    assert left(layout) == before
    console = PlainConsole(record=True, file=(tmp_path / "shown").open("w"))
    print_result(result, console)
    console.file.close()
    assert "6 files would be removed, 0.0 MB; 0.0 MB in use" in console.export_text()


def test_a_file_with_another_name_in_an_output_frees_nothing(layout: Layout) -> None:
    out = layout.embeddings("train") / "a"
    out.parent.mkdir(parents=True)
    out.hardlink_to(layout.store / "embed-aaaaaaaaaaaa" / "a")
    assert gc(layout, [], ARMS).size == 3000
    assert out.exists()


def test_nothing_is_removed_on_the_word_of_a_claim_that_was_changed(layout: Layout) -> None:
    claim = next(layout.store.glob("*.claim"))
    claim.write_text(claim.read_text().replace("kept", "keep"))
    before = left(layout)
    with pytest.raises(DamagedError):
        gc(layout, ["train"], ARMS)
    assert left(layout) == before


def test_a_project_without_a_store_has_nothing_to_free(tmp_path: Path) -> None:
    assert gc(Layout(tmp_path), [], []).removed == ()


def test_nothing_is_removed_while_a_claim_lies_there_under_another_name(layout: Layout) -> None:
    claim = next(layout.store.glob("*.claim"))
    renamed = claim.rename(claim.with_name(f"{claim.name}-old"))
    before = left(layout)
    with pytest.raises(DamagedError, match=r"claim-old: no file of the store. If it is a claim that was renamed, move"):
        gc(layout, ["train"], ARMS)
    assert left(layout) == before
    assert [fault for fault in verify(layout).faults if f"{renamed}: no file of the store" in fault]
    renamed.rename(claim)
    assert gc(layout, ["train"], ARMS).removed == ()
