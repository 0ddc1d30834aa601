from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.domain_lists import main
from pipeline.data.sources.name_lists import select_listed


def test_every_tenth_image_of_a_class_is_for_validation_and_the_lists_are_read_as_published_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for domain in ("photo", "sketch"):
        for label, count in (("dog", 25), ("house", 9)):
            folder = tmp_path / "sets" / domain / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:02d}.jpg").write_bytes(b"x")
    main([str(tmp_path / "sets"), str(tmp_path / "lists")])
    assert "photo: 32 for training, 2 for validation" in capsys.readouterr().out
    files = tuple((f"{path.parent.name}/{path.name}", 1) for path in sorted((tmp_path / "sets" / "photo").glob("*/*")))
    parts = []
    for part in ("train", "crossval"):
        listed = tmp_path / "lists" / f"photo_{part}_kfold.txt"
        selected, _ = select_listed(files, [listed], tmp_path / "sets" / "photo", "splits")
        parts.append([name for name, _ in selected])
    assert parts[1] == ["dog/09.jpg", "dog/19.jpg"]  # of the nine houses, none is the tenth
    assert sorted(parts[0] + parts[1]) == [name for name, _ in files]
    main([str(tmp_path / "sets"), str(tmp_path / "fewer"), "--every", "5"])
    assert "photo: 7 for training, 0 for validation" in capsys.readouterr().out
    kept = (tmp_path / "fewer" / "photo_train_kfold.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in kept if "house" in line] == ["photo/house/00.jpg 2", "photo/house/05.jpg 2"]
