"""A page of ours carries its hash in its last line, and `verify` checks it where pages lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import DamagedError
from cache.fingerprint import sha256_bytes
from pipeline.commands.verify import verify
from pipeline.project.layout import Layout
from pipeline.reporting.page import TextBlock, render
from pipeline.reporting.page_files import check_page, is_page, save_page

PAGE = render("An answer.", "", [TextBlock("A – dash.")], [])
PLACES = ("exports/student-zca.html", "report/index.html")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    save_page(tmp_path / "page.html", PAGE)
    return tmp_path / "page.html"


def test_the_last_line_is_the_hash_of_all_before_it(page: Path) -> None:
    body, last = page.read_bytes()[:-1].rsplit(b"\n", 1)
    body += b"\n"
    assert last.decode() == f"<!-- sha256 {sha256_bytes(body)} -->"
    assert PAGE.strip() in body.decode()
    check_page(page, "")


def test_every_flipped_byte_and_every_cut_is_refused_and_still_known_as_a_page(page: Path) -> None:
    whole = page.read_bytes()
    places = [*range(300), *range(300, len(whole), 101), *range(len(whole) - 120, len(whole))]
    for place in places:
        for damaged in (whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :], whole[:place]):
            page.write_bytes(damaged)
            assert is_page(page)
            with pytest.raises(DamagedError, match=r"page\.html: .*Make it again"):
                check_page(page, "Make it again.")


@pytest.mark.parametrize("place", PLACES)
def test_verify_names_a_damaged_page(tmp_path: Path, place: str) -> None:
    path, layout = tmp_path / place, Layout(tmp_path)
    save_page(path, PAGE)
    assert [checked.path for checked in verify(layout).checked] == [path]
    assert verify(layout).faults == []
    path.write_bytes(path.read_bytes().replace(b"An answer", b"No answer"))
    (fault,) = verify(layout).faults
    assert f"{path}: damaged: SHA-256" in fault
    path.write_bytes(path.read_bytes()[:2000])
    (fault,) = verify(layout).faults
    assert "cut short, or of an earlier version" in fault


def test_a_report_without_a_hash_is_named_and_somebody_elses_page_is_left_alone(tmp_path: Path) -> None:
    for place in PLACES:
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("<!doctype html>\n<p>Mine.", encoding="utf-8")
    (fault,) = verify(Layout(tmp_path)).faults
    assert "index.html: its last line holds no SHA-256" in fault
    assert "Run `report` again" in fault
