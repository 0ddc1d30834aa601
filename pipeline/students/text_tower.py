"""Text tower of a student: open_clip's transformer, on the token ids of the cache.

open_clip's bare transformer and tokenizer are imported only if a student has a text tower; its factory and the
teacher's weights are never used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from safetensors.torch import load
from torch import Tensor, nn

from pipeline.data.text_slice import TextSlice
from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection
from pipeline.students.towers import Tower, last_layer

VOCABULARY = 49408
"""Number of token ids of CLIP's tokenizer; the highest is end of text."""
TOKENIZER = "SimpleTokenizer"
"""Name of the tokenizer in manifests."""
HEAD_WIDTH = 64
"""Width of CLIP's attention heads."""


class TextParams(ParamsSection):
    """`distill.<student>.text`: size of the text tower; the default is the published size."""

    layers: int = Field(default=12, ge=1)
    width: int = Field(default=384, ge=8)
    heads: int | None = Field(default=None, ge=1)
    """Default: one per 64 channels, as in CLIP."""
    context: int = Field(default=77, ge=2)
    """Maximum number of tokens of a text, including end of text."""
    weights: Literal["slice"] | None = None
    """`slice`: initialize with the slice of the teacher's text tower that `embed.text_slice` cached."""

    @property
    def head_count(self) -> int:
        """Return the number of attention heads."""
        return self.heads or max(1, self.width // HEAD_WIDTH)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TextParams:
        if self.width % self.head_count:
            raise ValueError(f"expected a width that {self.head_count} heads can share evenly")
        return self


class TextTower(Tower):
    """Maps token ids to an embedding: a causal transformer, read at the end of text, and a linear head."""

    def __init__(self, params: TextParams, dim: int) -> None:
        super().__init__()
        from open_clip.transformer import TextTransformer  # takes four seconds to import

        self.trunk = TextTransformer(
            context_length=params.context,
            vocab_size=VOCABULARY,
            width=params.width,
            heads=params.head_count,
            layers=params.layers,
            output_dim=None,
        )
        self.head = nn.Sequential(nn.Linear(params.width, dim))
        self.context = params.context

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Return the embedding: in the target space before folding, in CLIP space after."""
        return self.project(self.features(tokens))

    def features(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b f"]:
        """Return the transformer's output at the end of text.

        Attention is causal: positions after the last end of text in the batch have no effect and are dropped.
        """
        ends = tokens.argmax(dim=1)
        ids, trunk = tokens[:, : int(ends.max()) + 1], self.trunk
        length = ids.shape[1]
        x = trunk.token_embedding(ids) + trunk.positional_embedding[:length]
        x = trunk.ln_final(trunk.transformer(x, attn_mask=trunk.attn_mask[:length, :length]))
        last: Tensor = x[torch.arange(len(x), device=x.device), ends]
        return last


@torch.no_grad()
def init_from_slice(tower: TextTower, text_slice: TextSlice, forward: Float[np.ndarray, "d k"], key: str) -> None:
    """Initialize a tower with a slice of the teacher's weights, and its head with the projection to the target space.

    With P the teacher's projection, the head's weight is (P W)ᵀ; its scale and bias are set when training starts.

    Raises:
        UsageError: the slice has another width, or its blocks have other heads.
    """
    weights, trunk = load(text_slice.weights), tower.trunk
    if text_slice.width != trunk.width:
        raise UsageError(
            f"{key}.width: {trunk.width}, but embed.text_slice.width was {text_slice.width}: make them equal"
        )
    if text_slice.layers and text_slice.head_width * trunk.heads != trunk.width:
        raise UsageError(
            f"{key}.heads: blocks of the teacher have heads of {text_slice.head_width}; set {key}.heads to "
            f"{trunk.width // text_slice.head_width}"
        )
    projection = weights.pop("text_projection", None)
    weights["positional_embedding"] = weights["positional_embedding"][: tower.context]
    own = trunk.state_dict()
    fitting = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    if missing := [name for name in ("token_embedding.weight", "positional_embedding") if name not in fitting]:
        raise UsageError(
            f"{key}: the slice has other shapes of {', '.join(missing)}: its context is shorter, or its "
            "tokenizer another one"
        )
    trunk.load_state_dict({**own, **fitting})
    if projection is not None:
        last_layer(tower.head).weight.copy_((projection.double() @ torch.from_numpy(forward).double()).T)


def truncate_tokens(tokens: Int[np.ndarray, "m l"], context: int) -> Int[np.ndarray, "m c"]:
    """Return truncated token ids, as the tokenizer would: a text that is too long keeps its end-of-text token."""
    truncated = np.array(tokens[:, :context])
    long = tokens.argmax(axis=1) >= context
    truncated[long, -1] = tokens[long].max(axis=1)
    return truncated


def tokenize(texts: Sequence[str], context: int) -> Int[np.ndarray, "m c"]:
    """Return the token ids of texts by CLIP's tokenizer, whose vocabulary is part of open_clip."""
    return np.asarray(_tokenizer()(list(texts), context_length=context)).astype(np.int32)


def tokenizer_merges() -> str:
    """Return the merges of CLIP's tokenizer in order, one pair per line, from which it can be rebuilt."""
    ranks = _tokenizer().bpe_ranks
    return "\n".join(" ".join(pair) for pair in sorted(ranks, key=ranks.__getitem__))


def check_tokenizer(teacher: Mapping[str, Any], texts: Sequence[str], tokens: Int[np.ndarray, "m l"]) -> None:
    """Refuse a tokenizer that differs from the teacher's: `tokens` are the cached tokens of `texts`.

    Raises:
        UsageError: the teacher used another tokenizer, or the same one with other settings.
    """
    if teacher.get("tokenizer") != TOKENIZER:
        raise UsageError(
            f"distill: a student with a text tower needs a teacher with CLIP's tokenizer; {teacher.get('model')} has "
            f"{teacher.get('tokenizer')}. Leave `text` out: the teacher's cached text serves any student."
        )
    if not np.array_equal(tokenize(texts, tokens.shape[1]), tokens):
        raise UsageError(
            f"distill: {teacher.get('model')} cut its captions into other tokens than CLIP's tokenizer does. "
            "Leave `text` out: the teacher's cached text serves any student."
        )


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
