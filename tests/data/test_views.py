"""Views are the same wherever they are drawn, and their pixels are CLIP's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.views import ViewParams, apply_view, center_view, random_view, required_side, view_of
from pipeline.project.errors import UsageError
from pipeline.project.params import parse

SIZES = st.integers(8, 2000)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a smooth random picture, the same for a seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@given(SIZES, SIZES, st.text(min_size=1, max_size=20), st.integers(1, 99), st.integers(0, 2**40))
@settings(deadline=None)
def test_a_crop_lies_inside_the_image_and_keeps_its_share_and_ratio(
    width: int, height: int, key: str, index: int, seed: int
) -> None:
    params = ViewParams(crops=1, scale=(0.3, 0.9), ratio=(0.8, 1.25), seed=seed)
    left, top, right, bottom = random_view(params, key, index, width, height).box
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1
    share, ratio = (right - left) * (bottom - top), (right - left) * width / ((bottom - top) * height)
    middle = center_view(width, height).box == (left, top, right, bottom)
    assert middle or (0.3 - 1e-5 < share < 0.9 + 1e-5 and 0.8 / 1.0001 < ratio < 1.25 * 1.0001)


def test_a_view_can_be_drawn_again_alone_in_any_order_in_another_process() -> None:
    params = ViewParams(crops=3, seed=7)
    drawn = {(key, k): random_view(params, key, k, 64, 48) for key in ("a", "b") for k in (1, 2, 3)}
    assert len(set(drawn.values())) == 6
    again = {(key, k): random_view(params, key, k, 64, 48) for k in (3, 1, 2) for key in ("b", "a")}
    assert again == drawn
    code = "from pipeline.data.views import *; print(random_view(ViewParams(crops=3, seed=7), 'b', 2, 64, 48))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == repr(drawn["b", 2])
    # Negative controls: another seed and another key are other views.
    assert random_view(ViewParams(seed=8), "b", 2, 64, 48) != drawn["b", 2]


def test_the_drawing_of_a_view_never_changes_between_releases() -> None:
    """Caches on disk were made from these numbers."""
    view = view_of(ViewParams(crops=8, seed=3), "000000000139", 4, 640, 426)
    np.testing.assert_allclose(view.box, PINNED_BOX, atol=1e-6)
    assert view.flip is PINNED_FLIP


PINNED_BOX = (0.10648766, 0.00068590, 0.77391350, 0.89703178)
PINNED_FLIP = False


def test_shares_ratios_and_flips_follow_their_distributions() -> None:
    params = ViewParams(scale=(0.2, 0.8), flip=0.3)
    views = [random_view(params, str(i), 1, 100, 100) for i in range(4000)]
    boxes = np.array([view.box for view in views])
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # Mean of U(0.2, 0.8) is 0.5, its standard error here 0.003; crops that stick out are drawn again, so a little less.
    assert 0.48 < share.mean() < 0.51
    assert abs(np.mean([view.flip for view in views]) - 0.3) < 0.03
    across = boxes[:, 0] / (1 - boxes[:, 2] + boxes[:, 0])
    # Where there is room, the place is uniform: mean 1/2, standard error 0.005.
    assert abs(across.mean() - 0.5) < 0.02


def test_views_are_stored_as_float32_without_loss() -> None:
    box = random_view(ViewParams(), "x", 1, 77, 31).box
    assert tuple(float(np.float32(edge)) for edge in box) == box


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 64), (96, 160), (500, 375), (640, 427)])
def test_the_center_view_is_what_clip_itself_looks_at(width: int, height: int) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = photo(width, height)
    clip = np.asarray(Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])(image), dtype=int)
    ours = apply_view(image, center_view(width, height), 32).astype(int)
    off, one_pixel = np.abs(ours - clip).mean(), np.abs(ours[:, 1:] - ours[:, :-1]).mean()
    # CLIP rounds the resized side and the offset to whole pixels of its input, we do not: less than a pixel apart.
    whole = 32 * max(width, height) % (2 * min(width, height)) == 0
    assert off == 0 if whole else off < 0.55 * one_pixel


def test_the_center_view_is_less_than_a_pixel_from_clips_and_can_be_more_than_half() -> None:
    """A ramp tells where each output pixel looks: bicubic resampling keeps it a ramp, but for the borders."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    clip = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])
    apart = []
    for width in range(140, 400, 3):
        ramp = Image.fromarray(np.tile(np.arange(width, dtype=np.float32), (100, 1)))
        ours = apply_view(ramp, center_view(width, 100), 32)
        apart.append(np.abs(np.asarray(clip(ramp)) - ours)[:, 4:-4].max() * 32 / 100)
    assert 0.6 < max(apart) < 1


def test_a_flip_mirrors_the_pixels_of_the_box() -> None:
    image, view = photo(40, 30), random_view(ViewParams(flip=1), "k", 1, 40, 30)
    plain = apply_view(image, type(view)(view.box), 16)
    np.testing.assert_array_equal(apply_view(image, view, 16), plain[:, ::-1])
    assert view.flip
    assert not np.array_equal(plain, plain[:, ::-1])


def test_arrays_and_images_give_the_same_pixels() -> None:
    image, view = photo(50, 40), center_view(50, 40)
    np.testing.assert_array_equal(apply_view(image, view, 24), apply_view(np.asarray(image), view, 24))


@given(SIZES, SIZES, st.integers(16, 256), st.floats(0.1, 1), st.floats(0.5, 1))
@settings(deadline=None)
def test_the_kept_side_leaves_every_crop_enough_pixels(
    width: int, height: int, size: int, scale: float, ratio: float
) -> None:
    params = ViewParams(scale=(scale, scale), ratio=(ratio, ratio))
    side = required_side(size, [params.facts(0), params.facts(1)])
    shrink = side / min(width, height)
    left, top, right, bottom = random_view(params, "k", 1, width, height).box
    assert min((right - left) * width, (bottom - top) * height) * shrink > size - 0.01


def test_growing_from_four_to_eight_crops_changes_nothing_about_the_first_four() -> None:
    four, eight = ViewParams(crops=4), ViewParams(crops=8)
    assert [four.facts(k) for k in range(5)] == [eight.facts(k) for k in range(5)]
    assert len({str(eight.facts(k)) for k in range(9)}) == 9


@pytest.mark.parametrize(
    "wrong", [{"scale": [0.9, 0.5]}, {"scale": [0, 1]}, {"ratio": [2, 1]}, {"flip": 1.5}, {"crops": -1}, {"crop": 1}]
)
def test_wrong_view_settings_are_refused_with_their_key(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"embed\.views\." + next(iter(wrong))):
        parse(wrong, "embed.views", ViewParams)
