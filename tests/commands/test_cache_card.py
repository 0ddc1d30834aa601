"""The card of a published cache: everything in it comes from the manifests, and nothing of its maker's machine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from cache.fingerprint import fingerprint
from cache.manifest import NAME, read_manifest, write_manifest
from pipeline.commands.cache_card import write_cache_card
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout

SPLITS = ["train", "val", "badges"]
SOURCES = {
    "train": [{"source": "coco", "images": "/secret/coco", "limit": 80}, {"source": "folder", "path": "/secret/own"}],
    "val": {"source": "sample", "part": "val", "images": 40},
}


def test_the_card_says_what_there_is_and_how_to_check_it(made_project: Layout, tmp_path: Path) -> None:
    path = write_cache_card(tmp_path / "card.md", SPLITS, SOURCES, made_project, "MIT")
    card = DatasetCard.load(path)
    assert card.data.license_name == "MIT"
    assert card.data.size_categories == ["n<1K"]
    for split in SPLITS:
        folder = made_project.embeddings(split)
        for name, part in read_manifest(folder).parts.items():
            size = sum(file.stat().st_size for file in (folder / name).glob("*.h5")) / 1e6
            assert f"| {split} | {name} | {part.rows:,} | {size:,.1f} MB |" in card.text
        assert hashlib.sha256((folder / NAME).read_bytes()).hexdigest() in card.text
    assert "made-up" in card.text
    assert "from coco, limit 80 and folder" in card.text
    assert "10 classes: " in card.text
    assert "License of the teacher: MIT" in card.text
    assert "/secret" not in card.text
    assert str(made_project.root) not in card.text


def test_a_hostile_license_is_text(made_project: Layout, tmp_path: Path) -> None:
    path = write_cache_card(tmp_path / "card.md", ["val"], {}, made_project, "<script>alert(1)</script>: [x](y)")
    assert DatasetCard.load(path).data.license_name == "<script>alert(1)</script>: [x](y)"
    assert "<script>" not in DatasetCard.load(path).text


def test_a_license_that_nobody_named_is_said_to_be_missing(made_project: Layout, tmp_path: Path) -> None:
    path = write_cache_card(tmp_path / "card.md", ["val"], {}, made_project)
    assert "**not stated" in path.read_text()


def test_two_teachers_are_two_cards_and_nothing_embedded_is_none(project_copy: Layout, tmp_path: Path) -> None:
    layout = project_copy
    with pytest.raises(UsageError, match=r"none of other is embedded yet"):
        write_cache_card(tmp_path / "card.md", ["other"], {}, layout)
    made = read_manifest(layout.embeddings("val"))
    teacher = {**made.teacher, "model": "another"}
    facts = {name: {**part.facts, "teacher": teacher} for name, part in made.parts.items()}
    parts = {
        name: replace(part, facts=facts[name], fingerprint=fingerprint(facts[name]))
        for name, part in made.parts.items()
    }
    write_manifest(layout.embeddings("val"), replace(made, teacher=teacher, parts=parts))
    with pytest.raises(UsageError, match=r"val: of another teacher than the rest"):
        write_cache_card(tmp_path / "card.md", SPLITS, {}, layout)
    assert not (tmp_path / "card.md").exists()
