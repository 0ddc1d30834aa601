"""Terminal output: names of files and classes are printed as plain text, without control characters or markup."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, other line ends, changes of writing direction, and bytes of a file name that are not UTF-8."""
MAX_MESSAGE = 1500
"""Maximum characters of an error message; regular messages are shorter."""


def printable(text: str) -> str:
    """Return text as one line that every stream can encode, with control characters escaped."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(message: str) -> str:
    """Return a message as one printable line, with the middle of a very long one omitted."""
    line = printable(message)
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE // 2]} … {line[-MAX_MESSAGE // 2 :]}"


def is_text(text: str) -> bool:
    """Return whether text is UTF-8 without NUL, so that tokenizers, tables and files can hold it."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


class PlainConsole(Console):
    """A console that prints `[red]` and `:cat:` literally; styles are given as `Text` or `style=`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the printable form of a string, line by line."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


def prepare_streams() -> None:
    """Make standard output and error escape characters they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows literally, in a line, a heading or a table cell."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def yaml_string(text: str) -> str:
    """Return text as a YAML scalar in double quotes: JSON's strings are YAML's, with fewer escapes."""
    return json.dumps(printable(text), ensure_ascii=False)
