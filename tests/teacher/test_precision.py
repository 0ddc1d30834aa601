"""Half precision is kept only where whitening would not amplify what it lost."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cache.reader import EmbeddingStore
from pipeline.embed import EmbedParams, embed
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.precision import measure_noise
from tests.stages.test_embed import CAPTIONS, RUNTIME, pack_train


def test_noise_is_counted_on_the_axis_it_falls_on() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 0.5, 0.2, 0.001])  # the last axis lies below the floor: nothing is whitened there
    exact = rng.standard_normal((4000, 4)) * spread
    rough = exact + rng.standard_normal(exact.shape) * np.array([0.0, 0.0, 0.02, 0.01])
    found = measure_noise(exact, rough)
    assert found.worst == pytest.approx((0.02 / 0.2) ** 2, rel=0.1)
    assert found.mean == pytest.approx((0.02 / 0.2) ** 2 / 3, rel=0.1)
    assert not found.acceptable
    # Negative control: the same noise where the signal is largest is small.
    moved = measure_noise(exact, exact + rng.standard_normal(exact.shape) * np.array([0.02, 0, 0, 0]))
    assert moved.acceptable


def test_rough_embeddings_are_refused_before_any_is_kept_unless_accepted(
    tmp_path: Path, tiny_teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    pack_train(layout, CAPTIONS)
    rough = TeacherParams(model=tiny_teacher, precision="bf16")
    with pytest.raises(UsageError, match=r"'embed.teacher.precision': bf16 adds noise .* measured on 5 images"):
        embed("train", EmbedParams(teacher=rough), layout, RUNTIME)
    assert list(layout.root.rglob("*.h5")) == []
    accepted = EmbedParams(teacher=rough.model_copy(update={"allow_half_precision_noise": True}))
    assert EmbeddingStore.open(embed("train", accepted, layout, RUNTIME)).manifest.teacher["precision"] == "bf16"
    # Negative control: a half precision that loses nothing is taken.
    monkeypatch.setattr(Teacher, "_autocast", lambda _: nullcontext())
    fine = TeacherParams(model=tiny_teacher, precision="fp16")
    embed("train", EmbedParams(teacher=fine), layout, RUNTIME)
