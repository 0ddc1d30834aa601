from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project.errors import UsageError
from tests.test_sources import image, planned


def folder_of(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image(number))
    return folder


def test_a_folder_with_a_table_gives_captioned_images(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["a.png", "sub/b.png", "unnamed.png"])
    (tmp_path / "c.csv").write_text(f"image,caption\nsub/b.png,two\n./a.png,one\n{images}/a.png,three\n")
    source, listing, plan = planned({"source": "table", "images": str(images), "captions": str(tmp_path / "c.csv")})
    assert [name for name, _ in listing.files] == ["a.png", "sub/b.png"]
    assert [(e.key, source.load(e).captions) for e in plan.entries] == [("a", ("one", "three")), ("sub/b", ("two",))]


def test_a_folder_without_captions_is_for_image_only_distillation(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["a.png", "sub/a.png"])
    source, _, plan = planned({"source": "images", "images": str(images)})
    assert [(entry.key, source.load(entry).captions) for entry in plan.entries] == [("a", None), ("sub/a", None)]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_a_table_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    images = folder_of(tmp_path / "images", ["a.png"])
    (tmp_path / "c.csv").write_text(f"image,caption\n{name},x\n")
    with pytest.raises(UsageError, match="which is not below"):
        planned({"source": "table", "images": str(images), "captions": str(tmp_path / "c.csv")})


def test_a_table_that_names_missing_images_is_refused(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["a.png"])
    (tmp_path / "c.csv").write_text("image,caption\na.png,x\nb.png,y\n")
    with pytest.raises(UsageError, match=r"names 2 images, and 1 of them are not in .*: 'b\.png'"):
        planned({"source": "table", "images": str(images), "captions": str(tmp_path / "c.csv")})


def test_two_files_that_share_a_stem_keep_keys_of_their_own(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["a.jpg", "a.png", "b.png"])
    _, _, plan = planned({"source": "images", "images": str(images)})
    keys = [(entry.key, entry.origin) for entry in plan.entries]
    assert keys == [("a", "a.jpg"), ("a%2Epng", "a.png"), ("b", "b.png")]


def test_hidden_files_are_passed_over_and_links_followed_once(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["a.png", ".DS_Store", ".thumbs/x.png"])
    folder_of(tmp_path / "elsewhere", ["b.png"])
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "loop").symlink_to(images)
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    _, listing, plan = planned({"source": "images", "images": str(images)})
    assert [name for name, _ in listing.files] == ["a.png", "gone.png", "linked/b.png"]
    assert [(skip.origin, skip.reason) for skip in plan.skipped] == [
        ("gone.png", "no regular file: a broken link, a pipe or a device")
    ]
