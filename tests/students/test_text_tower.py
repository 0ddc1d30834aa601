"""The text tower: open_clip's transformer, the teacher's tokens, and the same way back to CLIP space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from pipeline.project.errors import UsageError
from pipeline.project.layout import CARD
from pipeline.students.checkpoint import load_student, save_student
from pipeline.students.inference import embed_texts, embed_tokens, label_vectors
from pipeline.students.model import Student, StudentParams
from pipeline.students.text_tower import VOCABULARY, TextParams, TextTower, check_tokenizer, tokenize, truncate_tokens
from pipeline.students.towers import last_layer
from pipeline.students.training.optimizer import decayed_modules
from pipeline.whitening.spaces import Modality
from tests.factories.students import END, START, TEXT, made_student, made_tokens
from tests.students.test_model import made_space

TEXTS = ["a dog", "two dogs run over a wide green field behind a wooden house", "œufs, 3 of them!"]
TOKENIZER = {"model": "m", "tokenizer": "SimpleTokenizer"}


def made_tower(**changes: Any) -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextParams(**{**TEXT, **changes}), 6).eval()


def test_tokens_are_cut_as_the_tokenizer_cuts_them() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    whole = tokenize(TEXTS, 77)
    for context in (4, 8, 32, 77):
        expected = SimpleTokenizer(context_length=context)(TEXTS).numpy()
        assert np.array_equal(truncate_tokens(whole, context), expected)
        assert np.array_equal(tokenize(TEXTS, context), expected)
    assert truncate_tokens(whole, 4)[1].tolist() == [START, *whole[1, 1:3], END]


def test_the_tower_says_what_open_clips_own_forward_says_whatever_padding_follows() -> None:
    tower, tokens = made_tower(), torch.from_numpy(made_tokens(7)).long()
    with torch.no_grad():
        expected = tower.head(tower.trunk(tokens))
        torch.testing.assert_close(tower(tokens), expected, rtol=1e-5, atol=1e-6)
        short = tokens[tokens.argmax(1) < 6][:, :6]
        torch.testing.assert_close(tower(short), expected[tokens.argmax(1) < 6], rtol=1e-5, atol=1e-6)
        # Negative control: what stands before the end is read.
        other = tokens.clone()
        other[:, 1] = (other[:, 1] + 1) % START
        assert not torch.allclose(tower(other), expected, atol=1e-4)


def test_the_default_is_the_published_size() -> None:
    torch.manual_seed(0)
    tower = TextTower(TextParams(), 512)
    blocks = tower.trunk.transformer.resblocks
    assert (len(blocks), tower.trunk.width, blocks[0].attn.num_heads, tower.context) == (12, 384, 6, 77)
    assert tower.trunk.token_embedding.weight.shape == (VOCABULARY, 384)
    with torch.no_grad():
        assert tower(torch.from_numpy(tokenize(TEXTS, 77)).long()).shape == (3, 512)


def test_an_image_tower_starts_alike_with_and_without_a_text_tower() -> None:
    plain, reader = made_student().state_dict(), made_student(text=TEXT).state_dict()
    assert all(torch.equal(plain[name], reader[name]) for name in plain)
    assert {name.partition(".")[0] for name in reader.keys() - plain.keys()} == {"text"}


def test_layers_decay_and_embeddings_of_words_do_not() -> None:
    student = made_student(text=TEXT)
    decaying = {id(p) for trunk in decayed_modules(student) for p in trunk.parameters() if p.ndim > 1}
    assert id(cast(Any, student.text).trunk.transformer.resblocks[0].mlp.c_fc.weight) in decaying
    assert id(cast(Any, student.text).trunk.token_embedding.weight) not in decaying
    assert id(last_layer(cast(Any, student.text).head).weight) not in decaying


@pytest.mark.parametrize("directional", [False, True])
def test_a_folded_text_tower_equals_unwhitening_outside_and_comes_back_from_disk(
    tmp_path: Path, directional: bool
) -> None:
    student, space = made_student(text=TEXT).eval(), made_space()
    tokens = made_tokens(9)
    towers: list[tuple[Any, Modality]] = [(student, "image"), (student.text, "text")]
    for tower, side in towers:
        tower.radius = space.transform(side).rms_norm if directional else None
    outside = space.to_embedding(embed_tokens(student, tokens), "text")
    for tower, side in towers:
        way = space.transform(side)
        tower.fold_unwhitening(torch.from_numpy(way.backward), torch.from_numpy(way.mean))
    inside = embed_tokens(student, tokens, batch=4)
    np.testing.assert_allclose(inside, outside, atol=1e-5)
    # Negative control: the image's way back is another one.
    assert not np.allclose(inside, space.to_embedding(embed_tokens(made_student(text=TEXT).eval(), tokens)), atol=1e-3)
    save_student(tmp_path, student, {"target": "zca"})
    again = load_student(tmp_path)
    assert np.array_equal(embed_tokens(again, tokens, batch=4), inside)
    assert again.card["text_parameters"] == sum(p.numel() for p in cast(Any, student.text).parameters())
    assert again.card["parameters"] == sum(p.numel() for p in student.parameters()) - int(
        str(again.card["text_parameters"])
    )


def test_a_longer_text_head_changes_a_tower_only_where_length_is_defined() -> None:
    space, tokens = made_space().transform("text"), torch.from_numpy(made_tokens(5)).long()
    for radius, visible in ((None, True), (space.rms_norm, False)):
        said = []
        for factor in (1, 7):
            tower = made_tower()
            tower.radius = radius
            layer = last_layer(tower.head)
            layer.weight.data.mul_(factor)
            layer.bias.data.mul_(factor)
            tower.fold_unwhitening(torch.from_numpy(space.backward), torch.from_numpy(space.mean))
            said.append(tower(tokens).detach())
        short, long = said
        assert torch.allclose(short, long, atol=1e-5) != visible


def test_label_vectors_are_the_mean_of_normalized_templates() -> None:
    student, templates = made_student(text=TEXT).eval(), ("a {c}", "one {c}.")
    found = label_vectors(student, ["cat", "dog"], templates)
    each = embed_texts(student, ["a cat", "one cat.", "a dog", "one dog."]).astype(np.float64)
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    by_hand = np.stack([each[:2].mean(0), each[2:].mean(0)])
    np.testing.assert_allclose(found, by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True), atol=1e-6)


def test_a_student_that_cannot_read_says_so() -> None:
    with pytest.raises(UsageError, match=r"no text tower of its own: use the teacher's cached text"):
        label_vectors(made_student(), ["cat"])


def test_another_tokenizer_than_the_teachers_is_refused() -> None:
    tokens = tokenize(TEXTS, 16)
    check_tokenizer(TOKENIZER, TEXTS, tokens)
    with pytest.raises(UsageError, match=r"needs a teacher with CLIP's tokenizer; m has HFTokenizer"):
        check_tokenizer({"model": "m", "tokenizer": "HFTokenizer"}, TEXTS, tokens)
    with pytest.raises(UsageError, match="into other tokens"):
        check_tokenizer(TOKENIZER, TEXTS, np.roll(tokens, 1, axis=0))


def test_a_width_that_heads_cannot_share_is_refused_and_no_text_leaves_no_trace() -> None:
    with pytest.raises(ValueError, match="a width that 5 heads can share evenly"):
        TextParams(width=32, heads=5)
    assert "text" not in StudentParams().model_dump()
    assert Student("test_resnet", StudentParams(), 6).text is None
    assert CARD == "student.json"


def test_a_tower_is_built_and_reads_with_open_clips_factory_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("the teacher was asked for")

    for module in (open_clip, open_clip.factory):
        for name in ("create_model", "create_model_and_transforms", "get_tokenizer", "load_checkpoint"):
            monkeypatch.setattr(module, name, refuse, raising=False)
    assert label_vectors(made_student(text=TEXT).eval(), ["cat"]).shape == (1, 6)
    with pytest.raises(RuntimeError, match="the teacher was asked for"):
        open_clip.create_model("ViT-B-32")
