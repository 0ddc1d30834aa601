"""docs/format.md is enough to read the files: its code runs, and its tables name what the files hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from cache.shard import ImageShard, PromptShard, Shard, TextShard
from pipeline.project.layout import Layout
from tests import ROOT

TEXT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture
def root(project_copy: Layout) -> Path:
    return project_copy.root


def run(code: str, root: Path) -> str:
    return subprocess.check_output([sys.executable, "-I", "-c", code], cwd=root, text=True)


def test_a_shard_is_read_with_plain_h5py_in_ten_lines(root: Path) -> None:
    assert len(CODE[0].strip().splitlines()) <= 10
    told = run(CODE[0], root)
    assert "30 (30, 24) float32" in told
    assert "'kind': 'image'" in told


def test_a_shard_is_checked_without_our_code_and_damage_is_seen(root: Path) -> None:
    assert run(CODE[1], root) == "True\n"
    path = root / "data" / "embeddings" / "train" / "image" / "view-00" / "shard-00000.h5"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(CODE[1], root) == "False\n"


@pytest.mark.parametrize(
    ("name", "kind"), [("badges/image/view-00", ImageShard), ("train/text", TextShard), ("badges/prompts", PromptShard)]
)
def test_every_array_of_a_shard_is_described_and_nothing_else(root: Path, name: str, kind: type[Shard]) -> None:
    with h5py.File(root / "data" / "embeddings" / name / "shard-00000.h5") as file:
        held = set(file)
        assert set(file.attrs) == {"format", "kind", "fingerprint", "name", "rows"}
    assert held == {*kind.texts, *kind.columns}
    assert all(f"`{array}`" in TEXT for array in held)
