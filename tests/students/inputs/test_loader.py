"""Batches: every image once an epoch, every view before any repeats, pixels and target always of one view."""

from __future__ import annotations

import threading

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories.students import ROWS, made_feed


def test_an_epoch_shows_every_image_once() -> None:
    feed = made_feed()
    rows = np.concatenate([feed.batch_at(step).rows for step in range(feed.epoch_steps)])
    assert sorted(rows) == list(range(ROWS))
    after = np.concatenate([feed.batch_at(feed.epoch_steps + step).rows for step in range(feed.epoch_steps)])
    assert not np.array_equal(rows, after)


def test_every_view_of_an_image_comes_before_any_repeats() -> None:
    feed = made_feed(views=3, batch=48)
    first = feed.targets.image[0]
    for cycle in range(2):
        shown = []
        for epoch in range(3 * cycle, 3 * cycle + 3):
            batch = feed.batch_at(epoch)
            shown.append(np.empty(ROWS, int))
            shown[-1][batch.rows] = np.rint((batch.targets.image.numpy() - first[batch.rows])[:, 0])
        assert (np.sort(np.stack(shown), axis=0) == np.arange(3)[:, None]).all()


def test_pixels_and_target_are_of_one_view() -> None:
    feed = made_feed(views=2)
    for step in range(6):
        batch = feed.batch_at(step)
        view = np.rint((batch.targets.image.numpy() - feed.targets.image[0][batch.rows])[:, 0]).astype(int)
        boxes = feed.targets.boxes[view, batch.rows]
        assert np.array_equal(batch.pixels.numpy(), feed.pixels.batch(batch.rows, boxes, view == 1, 16))
        # Negative control: the other view's flip gives other pixels.
        assert not np.array_equal(batch.pixels.numpy(), feed.pixels.batch(batch.rows, boxes, view == 0, 16))


@given(step=st.integers(0, 40), other=st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_a_batch_depends_on_its_step_alone(step: int, other: int) -> None:
    feed, fresh = made_feed(views=2, captions=3, bank_size=5), made_feed(views=2, captions=3, bank_size=5)
    feed.batch_at(other)
    a, b = feed.batch_at(step), fresh.batch_at(step)
    assert np.array_equal(a.rows, b.rows)
    for x, y in ((a.pixels, b.pixels), (a.targets.image, b.targets.image), (a.targets.bank, b.targets.bank)):
        assert x is not None
        assert y is not None
        assert torch.equal(x, y)


def test_the_stream_gives_the_same_batches_in_order_and_leaves_no_thread() -> None:
    feed, before = made_feed(), threading.active_count()
    streamed = [batch.rows for batch in feed.stream(2, 7)]
    assert all(np.array_equal(a, feed.batch_at(step).rows) for a, step in zip(streamed, range(2, 7), strict=True))
    assert threading.active_count() == before


def test_a_caption_belongs_to_its_image_and_all_are_used() -> None:
    feed = made_feed(captions=3)
    used = np.concatenate([feed.captions(step) for step in range(20 * feed.epoch_steps)])
    rows = np.concatenate([feed.batch_at(step).rows for step in range(20 * feed.epoch_steps)])
    assert np.array_equal(used // 3, rows)
    assert set(used) == set(range(3 * ROWS))


def test_the_bank_marks_the_images_own_captions() -> None:
    feed = made_feed(captions=3, bank_size=200)
    batch = feed.batch_at(1)
    text = np.asarray(feed.targets.text).reshape(ROWS, 3, -1)
    same = (np.asarray(batch.targets.bank)[None, :, None] == text[batch.rows][:, None]).all(-1).any(-1)
    assert np.array_equal(same, np.asarray(batch.targets.bank_mask))
    assert np.asarray(batch.targets.bank_mask).any()


def test_flip_probabilitys_mirror_some_images_against_the_same_target() -> None:
    plain, free = made_feed().batch_at(0), made_feed(flip_probability=0.5).batch_at(0)
    mirrored = [not torch.equal(a, b) for a, b in zip(plain.pixels, free.pixels, strict=True)]
    assert 0 < sum(mirrored) < len(mirrored)
    assert torch.equal(plain.targets.image, free.targets.image)


def test_the_first_caption_alone_is_learnt_where_that_is_asked_for_and_tokens_go_with_their_text() -> None:
    feed, first = made_feed(captions=3, tokens=True), made_feed(captions=3, tokens=True, max_captions=1)
    assert np.array_equal(first.captions(4), 3 * first.batch_at(4).rows)
    assert not np.array_equal(feed.captions(4), 3 * feed.batch_at(4).rows)
    for step in range(3):
        batch, chosen = feed.batch_at(step), feed.captions(step)
        assert np.array_equal(np.asarray(batch.tokens), np.asarray(feed.targets.tokens)[chosen])
        assert np.array_equal(np.asarray(batch.targets.text), np.asarray(feed.targets.text)[chosen])
        part = batch.part(slice(4, 9))
        assert np.array_equal(np.asarray(part.tokens), np.asarray(feed.targets.tokens)[chosen[4:9]])
