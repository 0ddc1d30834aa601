"""What was seen of a student while it learnt, one row for each look."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Row = dict[str, float]


def render_history(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the rows as CSV, six digits each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: format(value, ".6g") for name, value in row.items()} for row in rows)
    return text.getvalue()
