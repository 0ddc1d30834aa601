"""The tokens are the right ones: tied to the embeddings, place by place, and dilated without another value."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from pipeline.project.dilation import DilatedAverage, check_dilation, dilate_trunk
from pipeline.project.errors import UsageError
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.tokens import text_lengths, token_reader, words_of_tokens
from tests import ROOT

CAPTIONS = ["a red cat to the left of a butterfly", "two mushrooms and no umbrella."]


@pytest.fixture(scope="module")
def sample_teacher() -> Teacher:
    return load_teacher(TeacherParams(model=f"local-dir:{ROOT / 'presets' / 'sample-teacher'}"), "cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)


def test_the_mean_of_a_convolutional_towers_places_is_its_embedding(
    sample_teacher: Teacher, pixels: np.ndarray
) -> None:
    reader = token_reader(sample_teacher)
    assert reader.grid == 2
    with torch.inference_mode():
        pooled, places, embedding = reader.read_places(reader._images(pixels))
    assert torch.equal(cast(Any, embedding), torch.from_numpy(sample_teacher.embed_images(pixels))), (
        "one pass gives both"
    )
    alone = sample_teacher.embed_images(pixels)
    np.testing.assert_allclose(places.mean(dim=1).numpy(), alone, atol=2e-5)
    np.testing.assert_allclose(pooled.numpy(), alone, atol=2e-5)


def test_a_dilated_tower_says_the_same_at_the_places_it_shares(sample_teacher: Teacher, pixels: np.ndarray) -> None:
    coarse, fine = token_reader(sample_teacher), token_reader(sample_teacher, grid=8)
    few = coarse.embed_patches(pixels).reshape(3, 2, 2, -1)
    many = fine.embed_patches(pixels).reshape(3, 8, 8, -1)
    np.testing.assert_allclose(many[:, ::4, ::4], few, atol=2e-5)
    # What lies between is something else: the finer grid is no copy of the coarse one.
    assert np.abs(many[:, 1::4, 1::4] - few).max() > 0.05


def test_a_shortcut_average_that_is_not_dilated_is_refused(sample_teacher: Teacher) -> None:
    """The control: timm dilates the convolutions of test_resnet and leaves the average of its shortcut."""
    import timm

    trunk = sample_teacher.model.visual.trunk  # type: ignore[union-attr]
    naive = timm.create_model("test_resnet", num_classes=0, output_stride=8).eval()
    naive.load_state_dict(trunk.state_dict())  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="is off by 0"):
        check_dilation(trunk, naive, 64, "test_resnet of somebody")
    dilated = dilate_trunk(trunk, 8, 64, "somebody")
    assert [module.step for module in dilated.modules() if isinstance(module, DilatedAverage)] == [1, 2]


def test_a_dilated_average_counts_only_what_is_there() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    out = DilatedAverage(2)(x)[0, 0]
    assert out[0, 0] == (0 + 2 + 8 + 10) / 4
    assert out[3, 3] == 15
    assert out[0, 3] == (3 + 11) / 2


def test_a_dilated_tower_has_a_pass_of_its_own(sample_teacher: Teacher, pixels: np.ndarray) -> None:
    """Rounding differs from the tower as trained, and embeddings that are in caches would not be theirs to the bit."""
    assert token_reader(sample_teacher, grid=8).embed_images_and_patches(pixels)[0] is None


def test_a_text_that_is_cut_is_known_from_one_that_just_fits(tiny_teacher: str) -> None:
    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    fits, cut = " ".join(["cat"] * 14), " ".join(["cat"] * 15)  # begin and end of text make it 16 and 17
    assert teacher.find_cut([fits, cut, fits, cut]) == [cut, cut]
    assert teacher.find_cut([fits]) == []
    assert teacher.find_cut([]) == []


def test_the_token_of_the_end_of_text_is_the_text_embedding(sample_teacher: Teacher, pixels: np.ndarray) -> None:
    reader = token_reader(sample_teacher)
    ids = sample_teacher.tokenize(CAPTIONS)
    words, lengths = reader.embed_words(ids)
    ends = words[np.cumsum(lengths) - 1]
    embedding = sample_teacher.embed_tokens(ids)
    np.testing.assert_allclose(ends, embedding / np.linalg.norm(embedding, axis=1, keepdims=True), atol=1e-5)
    assert lengths.tolist() == text_lengths(ids).tolist()
    reader.check_identity(pixels, ids)


def test_a_vit_gives_its_class_token_and_every_patch(tiny_teacher: str) -> None:
    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    reader = token_reader(teacher)
    pixels = np.random.default_rng(1).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    assert reader.grid == 4
    with torch.inference_mode():
        pooled, places, embedding = reader.read_places(reader._images(pixels))
        teacher.model.visual.output_tokens = True  # type: ignore[union-attr]
        theirs, raw = teacher.model.visual(reader._images(pixels))  # type: ignore[operator]
        teacher.model.visual.output_tokens = False  # type: ignore[union-attr]
        expected = raw @ teacher.model.visual.proj  # type: ignore[union-attr]
    assert torch.equal(cast(Any, embedding), torch.from_numpy(teacher.embed_images(pixels))), "one pass gives both"
    torch.testing.assert_close(pooled, theirs)
    torch.testing.assert_close(places, expected)
    reader.check_identity(pixels, teacher.tokenize(CAPTIONS))
    with pytest.raises(UsageError, match=r"has 4 × 4 patches"):
        token_reader(teacher, grid=8)


def test_tokens_that_do_not_add_up_are_refused_with_the_models_name(
    sample_teacher: Teacher, pixels: np.ndarray
) -> None:
    from dataclasses import replace

    reader = token_reader(sample_teacher)
    read = reader.read_places
    wrong = replace(reader, read_places=lambda images: (read(images)[0] * 1.1, *read(images)[1:]))
    with pytest.raises(UsageError, match=r"the image tokens of .*sample-teacher do not add up"):
        wrong.check_identity(pixels, sample_teacher.tokenize(CAPTIONS))


def test_a_tower_with_an_attention_pool_is_refused_by_name(sample_teacher: Teacher) -> None:
    import copy
    from dataclasses import replace

    model = copy.deepcopy(sample_teacher.model)
    model.visual.trunk.global_pool = torch.nn.Identity()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"the image tower of .*sample-teacher pools in a way"):
        token_reader(replace(sample_teacher, model=model))


def test_each_token_knows_the_word_it_belongs_to(sample_teacher: Teacher) -> None:
    ids = sample_teacher.tokenize(["a cat, unquestionably above"])
    (words,) = words_of_tokens(sample_teacher, ["a cat, unquestionably above"], ids)
    assert words[0] == words[-1] == -1
    assert sorted(set(words.tolist())) == [-1, 0, 1, 2, 3]
    assert (words == 1).sum() == 2, "`cat` and the comma"
    assert (words == 2).sum() > 1, "a long word takes several tokens"
