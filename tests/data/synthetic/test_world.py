from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from pipeline.data.synthetic.badges import GROUNDS
from pipeline.data.synthetic.world import BADGES, PARTS, STREAMS, render_image
from pipeline.project.errors import UsageError


def digest(part: str, number: int, seed: int = 0) -> str:
    scene = render_image(part, number, seed)
    return hashlib.sha256(scene.image.tobytes() + repr((scene.captions, scene.label)).encode()).hexdigest()


@pytest.mark.parametrize("part", PARTS)
def test_an_image_depends_on_part_number_and_seed_alone(part: str) -> None:
    forwards = [digest(part, number) for number in range(5)]
    backwards = [digest(part, number) for number in reversed(range(5))]
    assert forwards == backwards[::-1]
    assert len({*forwards, digest(part, 0, seed=1)}) == 6


def test_another_process_draws_the_same_bytes() -> None:
    program = "from tests.data.synthetic.test_world import digest; print(digest('train', 11), digest('badges', 12))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.split() == [digest("train", 11), digest("badges", 12)]


def test_parts_do_not_overlap() -> None:
    assert len(set(STREAMS.values())) == len(PARTS)
    images = [digest(part, number) for part in PARTS for number in range(200)]
    assert len(set(images)) == len(images)


def test_train_and_val_follow_one_law() -> None:
    train, val = (
        np.stack([render_image(part, n).image for n in range(400)]).mean(axis=(1, 2, 3)) for part in ("train", "val")
    )
    error = np.hypot(train.std(), val.std()) / np.sqrt(400)
    assert abs(train.mean() - val.mean()) < 4 * error


def test_badges_are_ten_balanced_classes_without_captions() -> None:
    scenes = [render_image("badges", number) for number in range(100)]
    assert len(BADGES) == 10
    assert Counter(s.label for s in scenes) == dict.fromkeys(range(10), 10)
    assert not any(s.captions for s in scenes)


def test_badges_are_drawn_in_a_style_of_their_own() -> None:
    # What a badge is pinned to shows in its four corners, all of one colour; few scenes have four such corners.
    def corners_agree(part: str, number: int) -> bool:
        corners = render_image(part, number).image[[0, 0, -1, -1], [0, -1, 0, -1]]
        return bool((corners == corners[0]).all())

    badges, scenes = (np.mean([corners_agree(part, n) for n in range(100)]) for part in ("badges", "train"))
    assert badges > 0.95
    assert scenes < 0.5
    assert len(GROUNDS) >= 10


def test_scenes_have_five_captions_and_no_label() -> None:
    scene = render_image("val", 3)
    assert len(scene.captions) == 5
    assert scene.label is None
    assert scene.image.dtype == np.uint8
    assert scene.image.shape == (64, 64, 3)


def test_a_misspelt_part_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="no part 'trian'; did you mean 'train'"):
        render_image("trian", 0)


def test_the_world_is_quick_to_draw() -> None:
    render_image("train", 0)
    started = time.process_time()
    for number in range(200):
        render_image("train", number)
    # 1.1 ms an image on an idle core; four thousand must not take more than some seconds.
    assert (time.process_time() - started) / 200 < 0.006
