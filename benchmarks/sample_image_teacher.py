"""Train the second teacher of the embedded sample: a small image model that names what is drawn, and reads no text.

    python benchmarks/sample_image_teacher.py --minutes 1.5 [--out FILE]

The minutes are those of one core. It learns from the same stream of drawn scenes and posters as the sample's CLIP
(sample_posters.py), none of them an image of `train`, `val` or `badges`: which kinds of things the caption names, by
cross-entropy with equal shares. The last snapshot is kept, in half precision, with its classifier. The committed
weights are those of one run; their figures (the last lines that this program prints):

    held-out posters, top-1 of 26 kinds    0.962
    badges, top-1 of their 10 kinds        0.974
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sample_posters import HELD_OUT, examples, poster
from pipeline.data.synthetic.object_kinds import KINDS
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.world import BADGES, render_image

MODEL = "test_efficientnet"
NAMES = tuple(KINDS)
BATCH = 64
LEARNING_RATE = 4e-3
WARM_UP = 0.05


def train(minutes: float, seed: int) -> torch.nn.Module:
    """Train for some minutes of one core."""
    torch.manual_seed(seed)
    model = timm.create_model(MODEL, pretrained=False, num_classes=len(NAMES)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    stream, started, step = examples(seed), time.process_time(), 0
    while (part := (time.process_time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, part / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * part))
        images, captions = zip(*(next(stream) for _ in range(BATCH)), strict=True)
        shares = named_kinds(captions)
        known = shares.sum(dim=1) > 0
        loss = functional.cross_entropy(model.train()(pixels(model, np.stack(images)))[known], shares[known])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say its type
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{step * BATCH:7d} images  {60 * minutes * part:5.0f} s  loss {loss.item():.3f}", flush=True)
    return model.eval()


def named_kinds(captions: Sequence[str]) -> torch.Tensor:
    """Return for each caption the kinds that it names, in equal shares."""
    words = [set(caption.lower().replace(",", " ").replace(".", " ").split()) for caption in captions]
    named = torch.tensor([[float(name in each or f"{name}s" in each) for name in NAMES] for each in words])
    return named / named.sum(dim=1, keepdim=True).clamp_min(1)


def pixels(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """Return images as timm prepares them for a model."""
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: np.ndarray, labels: Sequence[int], kinds: Sequence[str]) -> float:
    """Return the share of images whose highest class among some kinds is theirs."""
    parts = np.split(images, range(100, len(images), 100))
    logits = torch.cat([model(pixels(model, part)) for part in parts])[:, [NAMES.index(kind) for kind in kinds]]
    return float((logits.argmax(dim=1).numpy() == np.array(labels)).mean())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, write the weights, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--out", type=Path, default=Path("presets/sample-image-teacher.safetensors"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    model = train(arguments.minutes, arguments.seed)
    temporary = arguments.out.with_suffix(".partial")
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    save_file({name: (w.half() if w.is_floating_point() else w).contiguous() for name, w in weights.items()}, temporary)
    temporary.chmod(0o644)
    temporary.replace(arguments.out)
    labels = [number % len(NAMES) for number in range(10 * len(NAMES))]
    posters = np.stack([poster(SceneRng(HELD_OUT, n), NAMES[label]).image for n, label in enumerate(labels)])
    badges = [render_image("badges", number) for number in range(1000)]
    print(f"held-out posters, top-1 of {len(NAMES)} kinds    {accuracy(model, posters, labels, NAMES):.3f}")
    kinds, images = [str(kind) for kind in BADGES], np.stack([badge.image for badge in badges])
    right = accuracy(model, images, [int(badge.label or 0) for badge in badges], kinds)
    print(f"badges, top-1 of their 10 kinds        {right:.3f}")


if __name__ == "__main__":
    main()
