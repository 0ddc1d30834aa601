"""What people call their files and classes is text on a terminal, and nothing else."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pipeline.project.terminal import PlainConsole, printable

HOSTILE = ["[/]", "[red]x", ":cat:", "a\nb", "\x1b[31mred\x1b[0m", "\udcff\udcfe", "\u202egnp.exe", "[link=x]y[/]"]


@given(st.text())
def test_printable_text_is_one_line_that_every_stream_can_encode(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    assert shown.encode("utf-8").decode() == shown
    assert printable(shown) == shown


def test_ordinary_names_of_any_language_stay_as_they_are() -> None:
    for name in ("Łódź", "犬", "a b", "café crème", "👩‍🚀", "x[0]", "a\u00a0b"):
        assert printable(name) == name


def test_tables_and_lines_show_names_as_they_are() -> None:
    console = PlainConsole(width=200, file=(shown := io.StringIO()))
    table = Table(title="[/title]")
    table.add_column("[/head]")
    for name in HOSTILE:
        table.add_row(name)
        console.print(name, soft_wrap=True)
    console.print(table)
    text = shown.getvalue()
    assert all(text.count(printable(part)) >= 2 for name in HOSTILE for part in name.split("\n"))
    assert "[/title]" in text
    assert "[/head]" in text
    assert "\x1b" not in text
    # Negative control: rich's own console takes one of them for a style, and another for a picture.
    other = Console(width=200, file=(said := io.StringIO()))
    other.print("[red]x :cat:")
    assert "[red]" not in said.getvalue()
    assert ":cat:" not in said.getvalue()
