"""Train the teacher of the embedded sample: a small CLIP on drawn scenes, by open_clip's factory and loss.

    python benchmarks/sample_teacher.py --minutes 20 [--out DIR] [--start DIR]

The minutes are those of one core. It draws its images as it goes (sample_posters.py), from streams of chance of their
own: no image of `train`, `val` or `badges` is among them, and none has a badge's frame. (One medium in five, the
collage, does have a white edge, as badges do.) Snapshots are kept by the accuracy on held-out posters, never on badges.

The committed weights took 14 minutes of one core in three legs, each started from the last (`--start`): 4 and 4 and 6
minutes, 200,000 images, while the world was still being drawn; so a single run gives weights like them, not the same.
Their figures (the last lines that this program prints):

    badges, top-1 of 1,000       0.979        modality gap                 0.234
    held-out posters, top-1      0.992        energy of the mean   0.293 image, 0.315 text
    decades of the spectrum      6.7 image; the text tower is 48 wide, so 48 of its 96 directions are empty
    participation ratio          10.7 image, 12.3 text
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812  the name everybody knows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sample_posters import HELD_OUT, examples, poster
from pipeline.data.synthetic.object_kinds import KINDS
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.world import BADGES, RenderedScene, render_image
from pipeline.project.device import has_native_precision

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 96,
        "vision_cfg": {
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 3},
    },
    "preprocess_cfg": {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
BATCH = 96
LEARNING_RATE = 2e-3
WARM_UP = 0.03


def train(out: Path, minutes: float, seed: int, start: Path | None = None) -> open_clip.CLIP:
    """Train for some minutes of one core; keep the snapshot that does best on held-out posters."""
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False).to(memory_format=torch.channels_last)
    if start:
        model.load_state_dict(load_file(start / "open_clip_model.safetensors"))
    tokenizer, loss_of = open_clip.get_tokenizer(f"local-dir:{out}"), open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(_groups(model), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
    stream, started, best, step = examples(seed), time.process_time(), 0.0, 0
    while (part := (time.process_time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, part / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * part))
        images, captions = zip(*(next(stream) for _ in range(BATCH)), strict=True)
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=has_native_precision("bf16")):
            image = model.encode_image(_pixels(np.stack(images)))
        once = sorted(set(captions))
        text = model.encode_text(tokenizer(once), normalize=True)[[once.index(caption) for caption in captions]]
        loss = loss_of(F.normalize(image.float(), dim=-1), text, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        if step % 150 == 0:
            score = held_out_accuracy(model, tokenizer)
            print(
                f"{step * BATCH:7d} images  {60 * minutes * part:5.0f} s  loss {loss.item():.3f}  "
                f"held-out posters {score:.3f}  badges {badge_accuracy(model, tokenizer, 300):.3f}",
                flush=True,
            )
            if score >= best:
                best = score
                save(model, out)
    if held_out_accuracy(model, tokenizer) >= best:
        save(model, out)
    return model


def save(model: open_clip.CLIP, out: Path) -> None:
    """Write the weights in half precision: absent or whole."""
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    temporary = out / "open_clip_model.safetensors.partial"
    save_file(weights, temporary)
    temporary.chmod(0o644)  # safetensors makes it readable to its owner alone
    temporary.replace(out / "open_clip_model.safetensors")


def badge_accuracy(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, count: int = 1000) -> float:
    """Return top-1 on badges with the one template `a photo of a {c}.`."""
    scenes = [render_image("badges", number) for number in range(count)]
    return _accuracy(model, tokenizer, scenes, [s.label for s in scenes], BADGES)


def held_out_accuracy(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer) -> float:
    """Return top-1 over all kinds on posters that were not trained on."""
    kinds = tuple(KINDS)
    labels = [number % len(kinds) for number in range(10 * len(kinds))]
    scenes = [poster(SceneRng(HELD_OUT, number), kinds[label]) for number, label in enumerate(labels)]
    return _accuracy(model, tokenizer, scenes, labels, kinds)


def geometry(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, count: int = 2000) -> dict[str, float]:
    """Return what the embeddings of `val` look like: how far off center, the gap, the spectrum."""
    scenes = [render_image("val", number) for number in range(count)]
    image = embed_images(model, np.stack([s.image for s in scenes])).double().numpy()
    with torch.no_grad():
        text = F.normalize(model.encode_text(tokenizer([s.captions[0] for s in scenes])), dim=-1).double().numpy()
    figures = {"modality_gap": float(np.linalg.norm(image.mean(0) - text.mean(0)))}
    for name, rows in (("image", image), ("text", text)):
        values = np.linalg.eigvalsh(np.cov(rows.T))
        figures[f"{name}_mean_energy"] = float(np.sum(rows.mean(0) ** 2))
        figures[f"{name}_decades"] = float(np.log10(values[-1] / values[0]))
        figures[f"{name}_participation_ratio"] = float(values.sum() ** 2 / np.sum(values**2))
    return figures


def embed_images(model: open_clip.CLIP, images: np.ndarray) -> torch.Tensor:
    """Return unit embeddings of uint8 images."""
    model.eval()
    parts = np.split(images, range(100, len(images), 100))
    with torch.no_grad():
        return torch.cat([F.normalize(model.encode_image(_pixels(part)), dim=-1) for part in parts])


def _accuracy(
    model: open_clip.CLIP,
    tokenizer: open_clip.SimpleTokenizer,
    scenes: Sequence[RenderedScene],
    labels: Sequence[int | None],
    classes: Sequence[str],
) -> float:
    image = embed_images(model, np.stack([s.image for s in scenes]))
    with torch.no_grad():
        text = F.normalize(model.encode_text(tokenizer([f"a photo of a {c}." for c in classes])), dim=-1)
    return float(((image @ text.T).argmax(1).numpy() == np.array(labels)).mean())


def _pixels(images: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][key]).view(3, 1, 1) for key in ("mean", "std"))
    return ((torch.from_numpy(images).permute(0, 3, 1, 2) / 255) - mean) / std


def _groups(model: open_clip.CLIP) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    plain = [p for n, p in named if p.ndim < 2 or "embedding" in n or n == "logit_scale"]
    decayed = [p for n, p in named if not (p.ndim < 2 or "embedding" in n or n == "logit_scale")]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("presets/sample-teacher"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="a folder whose weights to start from")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    train(arguments.out, arguments.minutes, arguments.seed, arguments.start)
    model = open_clip.create_model(f"local-dir:{arguments.out}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{arguments.out}")
    figures = {"badges": badge_accuracy(model, tokenizer), "posters": held_out_accuracy(model, tokenizer)}
    for name, value in (figures | geometry(model, tokenizer)).items():
        print(f"{name:28s} {value:8.3f}")


if __name__ == "__main__":
    main()
