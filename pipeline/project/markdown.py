"""The one door to Markdown and its YAML front matter: names of users are text in both."""

from __future__ import annotations

import json
import re

from pipeline.project.terminal import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it stands, in a line, a heading or a cell of a table."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def yaml_string(text: str) -> str:
    """Return text as a YAML scalar in double quotes: JSON's strings are YAML's, with fewer escapes."""
    return json.dumps(printable(text), ensure_ascii=False)
