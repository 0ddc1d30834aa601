"""Scorers of image-caption pairs: cosine, late interaction, LABCLIP, and a small network on the dense map.

A scorer is a function of the tokens of one image and one caption. Statistics of the data (mean and deviation of the
map) are fixed when it is fitted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.relations.params import ScorerParams

HIDDEN = 128
"""Channels of the first layer and width of the last, as published (Kang et al., 2025)."""
NO_ROW = -1


@dataclass(frozen=True)
class ImageTokens:
    """Images as inputs of scorers: one vector each, and unit-length patch tokens in row-major order."""

    pooled: Float[Tensor, "n d"]
    patches: Float[Tensor, "n p d"]

    def take(self, rows: Int[Tensor, " b"]) -> ImageTokens:
        """Return some of the images."""
        return ImageTokens(self.pooled[rows], self.patches[rows])


@dataclass(frozen=True)
class TextTokens:
    """Captions as inputs of scorers: one vector each, and unit-length word tokens, zero after the end of text."""

    pooled: Float[Tensor, "m d"]
    words: Float[Tensor, "m t d"]
    valid: Bool[Tensor, "m t"]
    functional_row: Int[Tensor, "m t"]
    """Functional row that replaces a column; −1: none."""

    def take(self, rows: Int[Tensor, " b"]) -> TextTokens:
        """Return some of the captions."""
        return TextTokens(self.pooled[rows], self.words[rows], self.valid[rows], self.functional_row[rows])


def dense_maps(images: ImageTokens, texts: TextTokens) -> Float[Tensor, "b t p"]:
    """Return t_j · p_i for (image, caption) pairs, row by row."""
    return torch.einsum("btd,bpd->btp", texts.words, images.patches)


class Scorer(nn.Module, ABC):
    """A score for each (image, text) pair, row by row."""

    @abstractmethod
    def forward(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, " b"]:
        """Score row i of the images against row i of the texts."""

    def fit_units(self, images: ImageTokens, texts: TextTokens) -> None:
        """Set statistics from true pairs before training; most scorers need none."""


class CosineScorer(Scorer):
    """Cosine of the pooled vectors, CLIP's own score."""

    def forward(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, " b"]:
        """Return x · t of unit vectors."""
        return (functional.normalize(images.pooled, dim=-1) * functional.normalize(texts.pooled, dim=-1)).sum(dim=-1)


class LateScorer(Scorer):
    """Late interaction (FILIP, Yao et al., 2022): the mean over words of the largest dot product with a patch."""

    def forward(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, " b"]:
        """Return mean_j max_i t_j · p_i."""
        best = dense_maps(images, texts).amax(dim=-1).masked_fill(~texts.valid, 0)
        return best.sum(dim=-1) / texts.valid.sum(dim=-1)


class LabclipScorer(Scorer):
    """LABCLIP (Koishigarina et al., 2025): one learned matrix between pooled vectors, initialized to the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(dim))

    def forward(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, " b"]:
        """Return xᵀ A t / τ of unit vectors; τ = 0.05 gives useful gradients of the cross-entropy."""
        x = functional.normalize(images.pooled, dim=-1)
        return 20 * ((x @ self.matrix) * functional.normalize(texts.pooled, dim=-1)).sum(dim=-1)


class DcsmScorer(Scorer):
    """The dense map as an image with words as channels: two 3 × 3 convolutions and a perceptron.

        Z = (M − μ)/σ,  columns of functional words replaced by fixed random rows,  zero after the end of text
        s = W₂ relu(W₁ flat(relu(conv(relu(conv(Z))))))

    The published network (Kang et al., 2025) convolves over (patch index × word), where vertical neighbors are a grid's
    width apart; here they are adjacent. The perceptron on flattened positions keeps the positions.
    """

    def __init__(self, grid: int, words: int, functional_rows: int, seed: int = 0) -> None:
        super().__init__()
        self.grid, self.words = grid, words
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(max(functional_rows, 1), grid * grid, generator=generator)
        self.register_buffer("rows", rows)
        self.register_buffer("units", torch.tensor([0.0, 1.0]))
        self.first = nn.Conv2d(words, HIDDEN, 3, padding=1)
        self.second = nn.Conv2d(HIDDEN, HIDDEN // 4, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(HIDDEN // 4 * grid * grid, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    @torch.no_grad()
    def fit_units(self, images: ImageTokens, texts: TextTokens) -> None:
        """Set μ and σ from the valid entries of true pairs' maps."""
        entries = dense_maps(images, texts)[texts.valid]
        self.get_buffer("units").copy_(torch.stack([entries.mean(), entries.std()]))

    def standardized_maps(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, "b t p"]:
        """Return Z."""
        units = self.get_buffer("units")
        maps = (dense_maps(images, texts) - units[0]) / units[1]
        marked = texts.functional_row != NO_ROW
        rows = self.get_buffer("rows")[texts.functional_row.clamp(min=0)]
        maps = torch.where(marked[..., None], rows, maps)
        return maps.masked_fill(~texts.valid[..., None], 0)

    def forward(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, " b"]:
        """Return the score of each pair."""
        return self.score_maps(self.standardized_maps(images, texts))

    def score_maps(self, maps: Float[Tensor, "b t p"]) -> Float[Tensor, " b"]:
        """Return the score of each standardized map."""
        picture = maps.view(*maps.shape[:-1], self.grid, self.grid)
        features = functional.relu(self.second(functional.relu(self.first(picture))))
        scores: Tensor = self.head(features.flatten(1)).squeeze(-1)
        return scores


class PublishedDcsmScorer(DcsmScorer):
    """The authors' architecture: a one-channel image of patch index × word, four channels, one large matrix.

    3,026,365 parameters for 197 patches and 30 words, 99.99 % of them in `head`. Functional rows are (x + 1)/3 of unit
    Gaussians, inserted before standardization. Mean and deviation are fixed at fitting, while the authors use those of
    the batch; here a score depends on its pair only.
    """

    def __init__(self, patches: int, words: int, functional_rows: int, seed: int = 0) -> None:
        Scorer.__init__(self)
        self.patches, self.words = patches, words
        generator = torch.Generator().manual_seed(seed)
        rows = functional.normalize(torch.randn(max(functional_rows, 1), patches, generator=generator), dim=-1)
        self.register_buffer("rows", (rows + 1) / 3)
        self.register_buffer("units", torch.tensor([0.0, 1.0]))
        channels = HIDDEN // 32
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(channels * patches * words, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def standardized_maps(self, images: ImageTokens, texts: TextTokens) -> Float[Tensor, "b t p"]:
        """Return Z: functional rows first, then standardization."""
        units = self.get_buffer("units")
        marked = texts.functional_row != NO_ROW
        rows = self.get_buffer("rows")[texts.functional_row.clamp(min=0)]
        maps = torch.where(marked[..., None], rows, dense_maps(images, texts))
        return ((maps - units[0]) / units[1]).masked_fill(~texts.valid[..., None], 0)

    def score_maps(self, maps: Float[Tensor, "b t p"]) -> Float[Tensor, " b"]:
        """Return the score of each standardized map."""
        picture = maps.transpose(1, 2)[:, None]  # (b, 1, patches, words), as published
        features = functional.relu(self.second(functional.relu(self.first(picture))))
        scores: Tensor = self.head(features.flatten(1)).squeeze(-1)
        return scores


def build_scorer(params: ScorerParams, dim: int, patches: int) -> Scorer:
    """Return an untrained scorer for maps of `patches` positions, initialized from its seed."""
    rows = len(params.functional_words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        if params.kind == "dcsm":
            return DcsmScorer(math.isqrt(patches), params.columns, rows, params.seed)
        if params.kind == "dcsm-published":
            return PublishedDcsmScorer(patches, params.columns, rows, params.seed)
        if params.kind == "labclip":
            return LabclipScorer(dim)
        return CosineScorer() if params.kind == "cosine" else LateScorer()
