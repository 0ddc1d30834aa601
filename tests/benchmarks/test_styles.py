"""Rule-made styles: what each keeps of a photo, and which images a text that names a style is true of."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.frozen_features import FeatureSet
from benchmarks.frozen_pairs import PairSampler
from benchmarks.imagenet_words import imagenet_classes
from benchmarks.photo_sets import Photo
from benchmarks.pseudo_features import PseudoFeatures
from benchmarks.styles import LEVELS, STYLE_TEMPLATES, STYLES, contours

SIDE = 64


def square() -> np.ndarray:
    """Draw a bright square on dark blue."""
    pixels = np.full((SIDE, SIDE, 3), (30, 40, 80), np.uint8)
    pixels[16:48, 16:48] = (240, 200, 120)
    return pixels


def test_a_sketch_is_dark_at_edges_alone() -> None:
    darkness = contours(square())
    rows, columns = np.nonzero(darkness > 0.5)
    from_edge = np.minimum.reduce([np.abs(axis - edge) for axis in (rows, columns) for edge in (15.5, 47.5)])
    assert len(rows) > 64
    assert from_edge.max() <= 2
    # Negative control: an even image has no line, whatever its brightness.
    assert contours(np.full((SIDE, SIDE, 3), 90, np.uint8)).max() == 0
    assert STYLES["sketch"](square())[32, 32].tolist() == [255, 255, 255]


def test_a_cartoon_has_few_colors_and_grey_has_none() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    flat = STYLES["cartoon"](np.full((SIDE, SIDE, 3), (200, 77, 31), np.uint8))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
    assert set(np.unique(flat)) <= set(np.round(np.arange(LEVELS) * 255 / (LEVELS - 1)).astype(int))
    assert np.ptp(STYLES["grey"](noise).astype(int), axis=2).max() == 0
    assert np.ptp(noise.astype(int), axis=2).max() > 0


def test_a_stroke_of_a_painting_takes_the_commonest_color_about_it() -> None:
    pixels = square()
    pixels[32, 32] = (0, 255, 0)
    painted = STYLES["painting"](pixels)
    assert painted[32, 32].tolist() == painted[24, 24].tolist()
    assert painted[32, 32].tolist() != painted[4, 4].tolist()


@pytest.mark.parametrize("style", STYLES)
def test_each_style_keeps_the_size_and_has_words(style: str) -> None:
    assert STYLES[style](square()).shape == (SIDE, SIDE, 3)
    assert STYLES[style](square()).dtype == np.uint8
    assert all("{c}" in template for template in STYLE_TEMPLATES[style])


def sampler() -> PairSampler:
    """Return a sampler whose features say which photo and which view they are of."""
    views = ("plain", "sketch", "cartoon")
    photos = [Photo(np.empty(0, np.uint8), ("A dog runs .", "Two dogs"), f"photo {i}", False) for i in range(40)]
    captioned = {view: np.array([[i, number] for i in range(40)], np.float32) for number, view in enumerate(views)}
    wnid = imagenet_classes()[207].wnid
    classed = FeatureSet(captioned, [Photo(np.empty(0, np.uint8), ("x",), wnid, True)] * 40)
    pseudo = PseudoFeatures(np.zeros((1000, 2), np.float32), np.zeros((2, 2), np.float32), {})
    return PairSampler(FeatureSet(captioned, photos), classed, pseudo, (0.5, 0.4), kind_share=0.3)


def test_a_text_that_names_a_style_is_true_of_images_in_that_style_alone() -> None:
    pairs = [sampler().batch(step, 60) for step in range(5)]
    styled = plain = 0
    for batch in pairs:
        views = ["plain", "sketch", "cartoon"]
        drawn = [views[int(row[1])] for row in batch.features]
        assert batch.positives.diagonal().all()
        for j, text in enumerate(batch.texts[:30]):  # the captioned ones
            named = next((s for s, ts in STYLE_TEMPLATES.items() if any(text.startswith(t[:-4]) for t in ts)), None)
            true_of = {drawn[i] for i in range(60) if batch.positives[i, j] and i != j}
            if named:
                styled += 1
                assert drawn[j] == named
                assert true_of <= {named}
            elif text in ("a dog", "Two dogs", "A dog runs ."):
                plain += 1
    assert styled > 20
    assert plain > 40
    # "a dog" without a style is true of dogs in every style, as are the classes of that kind.
    batch = next(batch for batch in pairs if "a dog" in batch.texts[:30])
    dogs = batch.positives[:, batch.texts.index("a dog")]
    assert dogs[:54].all()


def test_a_styled_caption_is_a_phrase_about_what_it_was_about() -> None:
    texts = {text for step in range(5) for text in sampler().batch(step, 60).texts}
    assert "a sketch of a dog runs." in texts
    assert "a cartoon of two dogs." in texts
    assert not any("sketch of a photo" in text or "sketch of a blurry" in text for text in texts)
