"""A teacher: any open_clip or timm model, identified by the hash of its weights. Only this package loads one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError

from pipeline.project.device import report_out_of_memory, resolve_device
from pipeline.project.errors import UsageError
from pipeline.teacher.image_model import NO_TOKENIZER, ImageModel, create_image_model, image_preprocess
from pipeline.teacher.params import RANDOM, TeacherParams, import_open_clip, validate_teacher
from pipeline.teacher.text_tower import causal_tower, encode_causal

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
_LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    ImportError,
    SafetensorError,
    torch.serialization.pickle.UnpicklingError,  # type: ignore[attr-defined]  # what torch.load(weights_only=True) raises
)
"""Exceptions of open_clip for invalid models, as observed."""


@dataclass(frozen=True)
class TeacherIdentity:
    """The facts that decide an embedding."""

    model: str
    """Name of the model."""
    precision: str
    weights_sha256: str
    architecture_sha256: str
    preprocess: dict[str, Any]
    """Mean, std, interpolation and resize mode."""
    tokenizer: str
    dim: int
    image_size: int
    context_length: int
    logit_scale: float
    """exp of the learned log scale, the inverse of CLIP's temperature."""

    def facts(self) -> dict[str, Any]:
        """Return the facts as stored in a manifest."""
        return asdict(self)

    @property
    def reads_text(self) -> bool:
        """Return whether the teacher has a text tower."""
        return self.tokenizer != NO_TOKENIZER


@dataclass(frozen=True)
class Teacher:
    """A loaded model in evaluation mode."""

    identity: TeacherIdentity
    model: torch.nn.Module
    tokenizer: Any
    device: torch.device

    def embed_images(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> Float[np.ndarray, "b d"]:
        """Return unnormalized image embeddings of pixels from `apply_view`."""
        return to_numpy(self.forward_images(pixels))

    def forward_images(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> torch.Tensor:
        """Return the same on the device, without waiting for a GPU."""
        with torch.inference_mode(), self._autocast(), report_out_of_memory(self.device):
            own = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # torch needs writable memory
            if self.device.type == "cuda":
                own = own.pin_memory()  # overlaps the previous forward pass only if pinned
            images = own.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            return self.model.encode_image(self._normalized(images)).float()  # type: ignore[operator,no-any-return]

    def tokenize(self, texts: Sequence[str]) -> Int[np.ndarray, "m l"]:
        """Return the tokens of texts, truncated and padded to the model's context length."""
        if not texts:
            return np.zeros((0, self.identity.context_length), np.int32)
        return np.asarray(self.tokenizer(list(texts))).astype(np.int32)

    def find_cut(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that the tokenizer truncates."""
        context = self.identity.context_length
        longer = np.asarray(self.tokenizer(list(texts), context_length=context + 1)) if texts else np.zeros((0, 1))
        cut = np.flatnonzero(longer.argmax(axis=1) >= context)  # the end-of-text token has the highest id
        return [texts[int(row)] for row in cut]

    def embed_tokens(self, tokens: Int[np.ndarray, "m l"]) -> Float[np.ndarray, "m d"]:
        """Return unnormalized text embeddings.

        In a causal text tower, positions after the last end-of-text token of the batch have no effect on the output, so
        they are dropped: captions of ten tokens cost ten positions, not 77.
        """
        with torch.inference_mode(), self._autocast(), report_out_of_memory(self.device):
            ids = torch.from_numpy(tokens).to(self.device, torch.long)
            tower = causal_tower(self.model)
            if tower is None:
                return to_numpy(self.model.encode_text(ids))  # type: ignore[operator]
            return to_numpy(encode_causal(tower, ids[:, : int(ids.argmax(dim=1).max()) + 1]))

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self._mean_std
        return (images.float() / 255 - mean) / std

    @cached_property
    def _mean_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return them on the device, copied once: a copy at each call would wait for all pending work."""
        preprocess = self.identity.preprocess
        mean, std = (torch.tensor(preprocess[name], device=self.device).view(3, 1, 1) for name in ("mean", "std"))
        return mean, std

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.identity.precision != "fp32":
            return torch.autocast(self.device.type, DTYPES[self.identity.precision])
        if self.device.type == "cuda":  # by default torch computes convolutions in TF32, with ten bits of mantissa
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return nullcontext()


def load_teacher(params: TeacherParams, device: str = "auto") -> Teacher:
    """Load a teacher; the network is used only for a hub model or a published tag that is named.

    Raises:
        UsageError: no such model, tag, folder or file; weights that do not fit; an unknown device.
    """
    validate_teacher(params)
    torch_device = resolve_device(device)
    try:
        model, tokenizer = create_image_model(params) if params.is_image_only else _create(params)
    except _LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"params: 'embed.teacher': {params.name} could not be loaded: {reason}") from error
    identity = (
        _identify_image_model(params, model) if isinstance(model, ImageModel) else _identify(params, model, tokenizer)
    )
    model = model.to(torch_device).to(memory_format=torch.channels_last)  # as the images; faster convolutions
    return Teacher(identity, model, tokenizer, torch_device)


def _create(params: TeacherParams) -> tuple[torch.nn.Module, Any]:
    open_clip = import_open_clip()
    at_random = params.pretrained == RANDOM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(
            params.model,
            pretrained=None if at_random else params.pretrained,
            require_pretrained=not at_random,
            pretrained_text=False,
        )
    return model.eval(), open_clip.get_tokenizer(params.model)


def _identify(params: TeacherParams, model: torch.nn.Module, tokenizer: Any) -> TeacherIdentity:
    open_clip = import_open_clip()
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    width, height = (size, size) if isinstance(size, int) else size
    if width != height or preprocess["resize_mode"] == "longest":
        raise UsageError(f"params: 'embed.teacher': {params.name} wants {size} px padded: views are square crops")
    config = open_clip.get_model_config(params.model)
    with torch.inference_mode():
        dim = model.encode_text(torch.as_tensor(tokenizer(["a"]))).shape[1]  # type: ignore[operator]
        logit_scale = float(model.logit_scale.exp())  # type: ignore[operator]
    return TeacherIdentity(
        model=params.name,
        precision=params.precision,
        weights_sha256=hash_weights(model),
        architecture_sha256=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        preprocess={name: preprocess[name] for name in PREPROCESS},
        tokenizer=type(tokenizer).__name__,
        dim=int(dim),
        image_size=int(width),
        context_length=int(tokenizer.context_length),
        logit_scale=logit_scale,
    )


def _identify_image_model(params: TeacherParams, model: ImageModel) -> TeacherIdentity:
    preprocess = image_preprocess(model, params)
    side = int(preprocess["size"])
    with torch.inference_mode():
        features = model.encode_image(torch.zeros(1, 3, side, side))
    if features.ndim != 2:
        raise UsageError(
            f"params: 'embed.teacher': {params.name} gives {tuple(features.shape)} for an image, no vector"
        )
    return TeacherIdentity(
        model=params.name,
        precision=params.precision,
        weights_sha256=hash_weights(model),
        architecture_sha256=hashlib.sha256(str(model).encode()).hexdigest(),
        preprocess={name: preprocess[name] for name in PREPROCESS},
        tokenizer=NO_TOKENIZER,
        dim=int(features.shape[1]),
        image_size=side,
        context_length=0,
        logit_scale=1.0,
    )


def hash_weights(model: torch.nn.Module) -> str:
    """Return the SHA-256 over the names, types, shapes and bytes of a model's tensors, in the names' order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_numpy(embedding: torch.Tensor) -> Float[np.ndarray, "b d"]:
    """Return an embedding as a float32 array in main memory."""
    return embedding.float().cpu().numpy()
