"""Patch tokens of images and word tokens of captions, in the space of the teacher's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.dilation import dilate_trunk, output_stride
from pipeline.project.errors import UsageError
from pipeline.teacher.model import Teacher
from pipeline.teacher.text_tower import causal_tower

TOLERANCE = 1e-3
"""Largest difference between an embedding and its value from tokens, relative to its norm. Rounding gives 1e-6."""


@dataclass(frozen=True)
class TokenReader:
    """A teacher with tokens: unit vectors; patches in row-major order of a square grid, words up to the end of text."""

    teacher: Teacher
    grid: int
    read_places: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]
    """Maps normalized pixels to (embedding from tokens (b, d), patch tokens (b, p, d), embedding of the tower or None).

    Patch tokens are not normalized. The last value is given if the same pass computes it; a dilated tower needs another
    pass.
    """

    def embed_patches(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> Float[np.ndarray, "b p d"]:
        """Return unit-length patch tokens."""
        return self.embed_images_and_patches(pixels)[1]

    def embed_images_and_patches(
        self, pixels: UInt8[np.ndarray, "b s s 3"]
    ) -> tuple[Float[Tensor, "b d"] | None, Float[np.ndarray, "b p d"]]:
        """Return the exact embedding, if the pass over the tokens gives it, and unit-length patch tokens."""
        with torch.inference_mode(), self.teacher._autocast():
            _, places, embedding = self.read_places(self._images(pixels))
            tokens = functional.normalize(places.float(), dim=-1).cpu().numpy()
            return None if embedding is None else embedding.float(), tokens

    def embed_words(self, ids: Int[np.ndarray, "m l"]) -> tuple[Float[np.ndarray, "w d"], Int[np.ndarray, " m"]]:
        """Return the concatenated unit-length tokens of all texts, including begin and end, and the number of each."""
        with torch.inference_mode(), self.teacher._autocast():
            tokens = read_causal(causal_tower(self.teacher.model), torch.from_numpy(ids).to(self.teacher.device).long())
            unit = functional.normalize(tokens.float(), dim=-1).cpu().numpy()
        lengths = text_lengths(ids)
        return np.concatenate([row[:length] for row, length in zip(unit, lengths, strict=True)]), lengths

    def check_identity(self, pixels: UInt8[np.ndarray, "b s s 3"], ids: Int[np.ndarray, "m l"]) -> None:
        """Refuse a tower whose tokens do not reproduce its embeddings.

        For images, the class token or the mean of the patches is the embedding; for texts, the end-of-text token.

        Raises:
            UsageError: names the model, the tower, and the difference.
        """
        with torch.inference_mode(), self.teacher._autocast():
            pooled = self.read_places(self._images(pixels))[0].float().cpu().numpy()
        _compare("image", pooled, self.teacher.embed_images(pixels), self.teacher)
        with torch.inference_mode(), self.teacher._autocast():
            tokens = read_causal(causal_tower(self.teacher.model), torch.from_numpy(ids).to(self.teacher.device).long())
        last = tokens[torch.arange(len(ids)), torch.from_numpy(text_lengths(ids) - 1)].float().cpu().numpy()
        _compare("text", last, self.teacher.embed_tokens(ids), self.teacher)

    def _images(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> Tensor:
        images = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(self.teacher.device)
        return self.teacher._normalized(images.permute(0, 3, 1, 2))


def token_reader(teacher: Teacher, grid: int | None = None) -> TokenReader:
    """Return the reader of a teacher's tokens; its tower is dilated if the requested grid is finer than its own.

    Raises:
        UsageError: the tower has no tokens in the space of its embeddings, or not this grid; names the tower.
    """
    visual: Any = getattr(teacher.model, "visual", None)
    name, size = teacher.identity.model, teacher.identity.image_size
    if causal_tower(teacher.model) is None:
        raise UsageError(f"params: 'embed.tokens': the text tower of {name} does not end in its end-of-text token")
    if _is_vision_transformer(visual):
        own = int(visual.grid_size[0])
        if grid not in (None, own):
            raise UsageError(f"params: 'embed.tokens.grid': {grid}, but {name} has {own} × {own} patches: leave it out")
        return TokenReader(teacher, own, lambda images: _transformer_places(visual, images))
    if _is_average_pooled(visual):
        stride = None if grid is None else output_stride(size, grid, name)
        trunk = None if stride is None else dilate_trunk(visual.trunk, stride, size, name)
        own = _side(visual.trunk, size, teacher.device)
        step = (grid or own) // own
        if step < 1:
            raise UsageError(f"params: 'embed.tokens.grid': {grid}, but {name} has {own} × {own} places: ask for more")
        return TokenReader(teacher, grid or own, lambda images: _average_places(visual, trunk, images, step))
    raise UsageError(
        f"params: 'embed.tokens': the image tower of {name} pools in a way that gives its patches no place in the "
        "space of embeddings (expected a ViT with class token or average, or a convolutional tower with "
        "timm_pool: avg and timm_proj: linear). Leave embed.tokens out."
    )


def read_causal(tower: Any, ids: Tensor) -> Float[Tensor, "m l d"]:
    """Return the projected token of every position up to the last end of text in the batch."""
    ids = ids[:, : int(ids.argmax(dim=1).max()) + 1]
    length = ids.shape[1]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    projection: Any = tower.text_projection
    if projection is None:
        return x  # type: ignore[no-any-return]
    return projection(x) if isinstance(projection, nn.Module) else x @ projection  # type: ignore[no-any-return]


def text_lengths(ids: Int[np.ndarray, "m l"]) -> Int[np.ndarray, " m"]:
    """Return the number of tokens of each text, including end of text, which has the highest id."""
    return np.asarray(ids.argmax(axis=1) + 1, np.int64)


def words_of_tokens(
    teacher: Teacher, captions: Sequence[str], ids: Int[np.ndarray, "m l"]
) -> list[Int[np.ndarray, " t"]]:
    """Return for each token the index of its word in `caption.split()`; −1: none.

    Words are tokenized separately and concatenated; if the result differs from the tokens of the caption, all its
    indices are −1.
    """
    unique = sorted({word for caption in captions for word in caption.split()})
    pieces = {}
    for word, row in zip(unique, teacher.tokenize(unique), strict=True):
        pieces[word] = row[1 : int(row.argmax())].tolist()
    word_numbers = []
    for caption, row, length in zip(captions, ids, text_lengths(ids), strict=True):
        words = caption.split()
        laid = [token for word in words for token in pieces[word]][: int(length) - 2]
        numbers = [i for i, word in enumerate(words) for _ in pieces[word]][: int(length) - 2]
        same = laid == row[1 : int(length) - 1].tolist()
        word_numbers.append(np.array([-1, *numbers, -1] if same else [-1] * int(length), np.int16))
    return word_numbers


def _is_vision_transformer(visual: Any) -> bool:
    names = ("ln_post", "proj", "grid_size", "transformer")
    plain = getattr(visual, "attn_pool", None) is None and not getattr(visual, "final_ln_after_pool", False)
    square = getattr(visual, "grid_size", None) and visual.grid_size[0] == visual.grid_size[1]
    is_supported_pool = getattr(visual, "pool_type", None) in ("tok", "avg")
    return (
        all(getattr(visual, name, None) is not None for name in names) and plain and is_supported_pool and bool(square)
    )


def _is_average_pooled(visual: Any) -> bool:
    head = getattr(visual, "head", None)
    layers = set(dict(head.named_children())) if isinstance(head, nn.Sequential) else set()
    plain = layers <= {"drop", "proj"} and isinstance(getattr(head, "proj", None), nn.Linear)
    pooled = getattr(getattr(visual, "trunk", None), "global_pool", None)
    return plain and getattr(pooled, "pool_type", None) == "avg"


def _transformer_places(visual: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ln_post and projection of the class token or the mean, of every patch, and the embedding."""
    rows: list[Tensor] = []
    handle = visual.ln_post.register_forward_hook(lambda _module, _inputs, output: rows.append(output))
    try:
        embedding = visual(images)
    finally:
        handle.remove()
    tokens = rows[0] @ visual.proj
    return (tokens[:, 0] if visual.pool_type == "tok" else tokens[:, 1:].mean(dim=1)), tokens[:, 1:], embedding


def _average_places(visual: Any, dilated: Any, images: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the mean of the undilated positions, and all positions: linear ∘ mean = mean ∘ linear.

    Without dilation they are the input of the tower's own pooling, which also gives the embedding.
    """
    features: list[Tensor] = []
    embedding = None
    if dilated is None:
        handle = visual.trunk.global_pool.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
        try:
            embedding = visual(images)
        finally:
            handle.remove()
    else:
        features.append(dilated.forward_features(images))
    places = visual.head(features[0].permute(0, 2, 3, 1))
    return places[:, ::step, ::step].flatten(1, 2).mean(dim=1), places.flatten(1, 2), embedding


def _side(trunk: Any, size: int, device: torch.device) -> int:
    with torch.inference_mode():
        features = trunk.forward_features(torch.zeros(1, 3, size, size, device=device))
    if features.ndim != 4 or features.shape[2] != features.shape[3]:
        raise UsageError(
            f"params: 'embed.tokens': {type(trunk).__name__} gives features {tuple(features.shape)}, no square grid"
        )
    return int(features.shape[-1])


def _compare(
    tower: str, tokens: Float[np.ndarray, "b d"], embedding: Float[np.ndarray, "b d"], teacher: Teacher
) -> None:
    error = float(np.abs(tokens - embedding).max() / np.abs(embedding).max())
    if not error <= TOLERANCE:
        raise UsageError(
            f"params: 'embed.tokens': the {tower} tokens of {teacher.identity.model} do not add up to its embeddings: "
            f"off by {error:.2g} of the largest entry (expected at most {TOLERANCE:g}). Leave embed.tokens out."
        )
