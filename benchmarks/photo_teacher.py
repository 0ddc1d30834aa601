"""Train a teacher for real photos from data sets on disk: a small one at 64 px, or one on a frozen image tower.

    python benchmarks/photo_teacher.py --out DIR --minutes 240 --tiny-imagenet DIR --cifar10 DIR --flickr8k DIR
    python benchmarks/photo_teacher.py --out DIR --tower tf_efficientnet_lite2 --weights FILE
        --tiny-imagenet DIR --flickr8k DIR --adapt 1500 --steps 1000

Name at least one set, of training images only: `--tiny-imagenet`, a folder of WebDataset tars (`<key>.jpg` and
`<key>.json` with `wnid` and `names`); `--cifar10`, a folder of images per class; `--flickr8k`, a folder in COCO's
layout (`train/`, `annotations/captions_train.json`). `--test` is a folder of images per class to be scored on.

The model is open_clip's, the loss is open_clip's with several positives (see MultiPositiveLoss). It learns on a CPU
too, in hours; a minute of it shows only that it runs.

With `--tower`, a timm model with ImageNet weights (a safetensors file with its classifier), the image tower is locked
and needs both other sets: frozen_teacher.py says how. Features are computed once and kept below DIR/features;
stopped, the same command goes on. `--adapt` first trains the tower to see small photos, such as those of CIFAR-10
(adapt_tower.py). docs/evidence.md has the scores with and without it, and what they cost. `--styles` adds photos drawn
as sketches, cartoons, paintings and in grey, with words for these styles: docs/domains.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch.nn import functional as F  # noqa: N812  the name everybody knows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.locked_teacher import train_frozen
from benchmarks.photo_sets import KEPT, READERS, Photo, class_folders, first
from benchmarks.sample_teacher import save
from pipeline.data.prompts import TEMPLATES
from pipeline.project.device import keep_freed_memory

SIDE = 64
"""Pixels that the model sees: a crop of 64 from the 72 that are kept shifts an image by up to 4."""
CONFIG = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {
            "timm_model_name": "resnet18",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": SIDE,
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4},
    },
    "preprocess_cfg": {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


class MultiPositiveLoss(open_clip.ClipLoss):  # type: ignore[misc]  # open_clip has no types
    """Contrast images with texts where several texts are right for one image.

    With s the logits of open_clip's loss and P_ij = 1 where i and j share a concept, rows divided by their sum,
    the loss is −½ Σ_i Σ_j P_ij (log softmax_j s_ij + log softmax_j s_ji) / n: the symmetric loss of CLIP (Radford et
    al., 2021) where all concepts differ, UniCL's (Yang et al., 2022) where some agree.
    """

    def forward(
        self, image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, concepts: Sequence[str]
    ) -> torch.Tensor:
        """Return the loss of a batch."""
        numbers = torch.tensor([concepts.index(concept) for concept in concepts], device=image.device)
        same = (numbers[:, None] == numbers[None]).to(image.dtype)
        positives = same / same.sum(dim=1, keepdim=True)
        first, second = (F.cross_entropy(logits, positives) for logits in self.get_logits(image, text, scale))
        return (first + second) / 2


def train(photos: Sequence[Photo], out: Path, minutes: float, batch: int = 128, seed: int = 0) -> open_clip.CLIP:
    """Train a model on photos for some minutes, save it and return it."""
    torch.manual_seed(seed)
    choice = np.random.default_rng(seed)
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False).train()
    tokenizer, loss_of = open_clip.get_tokenizer(f"local-dir:{out}"), MultiPositiveLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05)
    started, step = time.monotonic(), 0
    while (part := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * part))
        rows = [photos[i] for i in choice.choice(len(photos), min(batch, len(photos)), replace=False)]
        pixels = np.stack([crop(photo.pixels, choice) for photo in rows])
        image = model.encode_image(normalized(pixels), normalize=True)
        text = model.encode_text(tokenizer([say(photo, choice) for photo in rows]), normalize=True)
        loss = loss_of(image, text, model.logit_scale.exp(), [photo.concept for photo in rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        if step % 50 == 0:
            print(f"{step * batch:8d} photos  {60 * minutes * part:6.0f} s  loss {loss.item():.3f}", flush=True)
    save(model, out)
    return model.eval()


def crop(pixels: np.ndarray, choice: np.random.Generator) -> np.ndarray:
    """Return a shifted and, every other time, mirrored view."""
    top, left = choice.integers(0, KEPT - SIDE + 1, size=2)
    view = pixels[top : top + SIDE, left : left + SIDE]
    return view[:, ::-1] if choice.random() < 0.5 else view


def say(photo: Photo, choice: np.random.Generator) -> str:
    """Return something that is true of a photo: a caption, or one of its names in a template."""
    words = str(choice.choice(photo.words))
    return str(choice.choice(TEMPLATES["cifar10"])).format(c=words) if photo.named else words


def normalized(pixels: np.ndarray) -> torch.Tensor:
    """Return uint8 images as the image tower wants them."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def zero_shot(model: open_clip.CLIP, out: Path, photos: Sequence[Photo]) -> float:
    """Return top-1 over the classes of photos, by open_clip's own classifier and the templates of CIFAR-10."""
    classes, margin = sorted({photo.concept for photo in photos}), (KEPT - SIDE) // 2
    templates = [lambda c, t=t: t.format(c=c) for t in TEMPLATES["cifar10"]]
    head = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer(f"local-dir:{out}"), classes, templates)
    right = 0
    with torch.no_grad():
        for start in range(0, len(photos), 256):
            part = photos[start : start + 256]
            views = np.stack([photo.pixels[margin : margin + SIDE, margin : margin + SIDE] for photo in part])
            said = (model.encode_image(normalized(views), normalize=True) @ head).argmax(dim=1).tolist()
            right += sum(classes[i] == photo.concept for i, photo in zip(said, part, strict=True))
    return right / len(photos)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the sets, train, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", help="a timm model, locked while the text tower learns")
    parser.add_argument("--weights", type=Path, help="of the tower: a safetensors file with its classifier")
    parser.add_argument("--adapt", type=int, default=0, help="steps in which the tower learns to see small photos")
    parser.add_argument("--side", type=int, default=160, help="pixels that the tower sees")
    parser.add_argument("--styles", action="store_true", help="photos in rule-made styles too, and words for them")
    parser.add_argument("--dim", type=int, default=512, help="of the embeddings on the frozen tower")
    parser.add_argument("--width", type=int, default=256, help="of the text tower on the frozen one")
    parser.add_argument("--steps", type=int, default=600, help="of the text tower on the frozen one")
    parser.add_argument("--batch", type=int, default=256, help="pairs of a step on the frozen tower")
    for name in READERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=240)
    parser.add_argument("--limit", type=int, help="the first N photos of each set only")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    if arguments.tower:
        if not (arguments.weights and arguments.tiny_imagenet and arguments.flickr8k):
            parser.error("--tower needs --weights, --tiny-imagenet and --flickr8k")
        train_frozen(arguments)
        return
    sets = {name: folder for name in READERS if (folder := getattr(arguments, name))}
    photos = [photo for name, folder in sets.items() for photo in first(READERS[name](folder), arguments.limit)]
    if not photos:
        parser.error(f"no photos: name at least one of {', '.join('--' + name.replace('_', '-') for name in READERS)}")
    print(f"{len(photos)} photos of {len({photo.concept for photo in photos})} concepts")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    model = train(photos, arguments.out, arguments.minutes)
    if arguments.test:
        tested = list(class_folders(arguments.test))
        print(f"zero-shot top-1 on {len(tested)} images: {zero_shot(model, arguments.out, tested):.3f}")


if __name__ == "__main__":
    main()
