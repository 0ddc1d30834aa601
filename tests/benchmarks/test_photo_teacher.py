from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from benchmarks import photo_sets, photo_teacher


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), (shade, 255 - shade, 40)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Lay out a tiny world: four images in a tar, four in class folders, two with captions."""
    tars = tmp_path / "tiny"
    tars.mkdir()
    with tarfile.open(tars / "00000.tar", "w") as tar:
        for number in range(4):
            note = {"wnid": f"n{number % 2}", "names": ["snail", "slug"] if number % 2 else ["sea_star"]}
            for name, data in ((f"{number}.jpg", image(60 * number)), (f"{number}.json", json.dumps(note).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for number in range(4):
        path = tmp_path / "cifar" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(50 + 10 * number))
    coco = tmp_path / "flickr"
    (coco / "train").mkdir(parents=True)
    (coco / "annotations").mkdir()
    for number in range(2):
        (coco / "train" / f"{number}.jpg").write_bytes(image(number))
    table = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(2)],
        "annotations": [{"id": 9 - i, "image_id": i % 2, "caption": f"caption {i}"} for i in range(4)],
    }
    (coco / "annotations" / "captions_train.json").write_text(json.dumps(table), encoding="utf-8")
    return tmp_path


def test_each_layout_is_read_with_its_words_and_concepts(disk: Path) -> None:
    tiny, cifar, flickr = (
        list(photo_sets.READERS[name](disk / folder))
        for name, folder in (("tiny_imagenet", "tiny"), ("cifar10", "cifar"), ("flickr8k", "flickr"))
    )
    assert [(photo.words, photo.concept) for photo in tiny[:2]] == [(("sea star",), "n0"), (("snail", "slug"), "n1")]
    assert [photo.concept for photo in cifar] == ["cat", "cat", "dog", "dog"]
    assert [photo.words for photo in flickr] == [("caption 0", "caption 2"), ("caption 1", "caption 3")]
    assert all(photo.pixels.shape == (72, 72, 3) for photo in [*tiny, *cifar, *flickr])
    assert tiny[3].pixels[0, 0].tolist() == [180, 75, 40]


def test_where_all_concepts_differ_the_loss_is_open_clips() -> None:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    ours, theirs = photo_teacher.MultiPositiveLoss(), open_clip.ClipLoss()
    scale = torch.tensor(10.0)
    assert ours(*rows, scale, list("abcdef")).item() == pytest.approx(theirs(*rows, scale).item(), rel=1e-6)
    # Negative control: where two agree, it is another.
    assert ours(*rows, scale, list("abcdea")).item() != pytest.approx(theirs(*rows, scale).item(), rel=1e-3)


def test_photos_of_one_concept_are_no_negatives_of_each_other() -> None:
    perfect = torch.eye(4)[[0, 0, 1, 2]]
    loss, scale = photo_teacher.MultiPositiveLoss(), torch.tensor(100.0)
    floor = 0.5 * np.log(2)  # two rows of four share their probability between two texts: entropy log 2 each
    assert loss(perfect, perfect, scale, list("aabc")).item() == pytest.approx(floor, abs=1e-4)


def test_a_view_is_a_crop_of_the_photo_or_its_mirror_image() -> None:
    pixels = np.arange(72 * 72 * 3).reshape(72, 72, 3)
    choice = np.random.default_rng(0)
    for _ in range(20):
        view = photo_teacher.crop(pixels, choice)
        assert view.shape == (64, 64, 3)
        assert abs(int(view[0, 1, 0]) - int(view[0, 0, 0])) == 3  # neighbours stay neighbours


def test_the_program_trains_a_model_that_open_clip_loads(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--tiny-imagenet", str(disk / "tiny"), "--cifar10", str(disk / "cifar"), "--flickr8k", str(disk / "flickr")]
    photo_teacher.main([*sets, "--out", str(disk / "out"), "--minutes", "0.01", "--test", str(disk / "cifar")])
    said = capsys.readouterr().out
    assert "10 photos of 6 concepts" in said
    assert "zero-shot top-1 on 4 images" in said
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{disk / 'out'}")
    assert model.visual.image_size in (64, (64, 64))


def test_without_a_set_it_says_what_to_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        photo_teacher.main(["--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "name at least one of --tiny-imagenet, --cifar10, --flickr8k" in capsys.readouterr().err
