"""A small labelled project of three domains as folders of real images, embedded by arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from cache.manifest import Manifest, write_manifest
from cache.shard import PromptShard, Shard
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.data.synthetic.world import render_image
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from tests.factories.project import DIM, RUNTIME, embed_images
from tests.factories.stores import TEACHER, write_part

DOMAINS = ("cartoon", "print", "sketch")
CLASSES = ("boat", "car", "fish")
RISE = {"label": 0.2, "kd": 0.8, "rise_absolute": 1.0, "rise_relative": {"anchors": "domains", "measure": "mse"}}
COMPARE: dict[str, Any] = {
    "student": "test_byobnet",
    "leave_out": ["print", "sketch"],
    "targets": ["ce", "rise", "random"],
    "reference": "ce",
    "control": "random",
    "arms": {
        "ce": {"loss": {"label": 1.0}},
        "rise": {"loss": RISE},
        "random": {"loss": RISE, "control": "random-words"},
        "permuted": {"loss": RISE, "control": "permuted-words"},
    },
    "epochs": [1],
    "learning_rates": [1e-3, 1e-2, 1e-1],
    "seeds": 2,
    "subset": 10,
    "training": {"batch": 8, "image_size": 16, "weight_decay": 0.0},
}


def domain_images(root: Path, seeds: dict[str, int] | None = None) -> None:
    """Draw six images a class and domain for train and three for val, those of a domain from a seed of its own."""
    for split, per_class, offset in (("train", 6, 0), ("val", 3, 500)):
        for domain in DOMAINS:
            for label, name in enumerate(CLASSES):
                folder = root / "images" / split / domain / name
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(per_class):
                    which = offset + 10 * number + (0, 2, 4)[label]  # a boat, a car or a fish of the ten kinds
                    image = render_image(domain, which, (seeds or {}).get(domain, 0)).image
                    Image.fromarray(image).save(folder / f"{number}.png")


def pack_domains(root: Path) -> Layout:
    """Index, pack and embed what lies in the folders; words are the same for every project."""
    layout = Layout(root)
    for split in ("train", "val"):
        sources = {
            domain: {
                "source": "class-folder",
                "images": str(root / "images" / split / domain),
                "templates": [f"a {domain} of a {{c}}"],
            }
            for domain in DOMAINS
        }
        source = parse_source({"source": "several", "sources": sources}, f"index.{split}")
        index(split, source, layout)
        packed = open_packed(pack(split, source, PackParams(shard_rows=20), layout, RUNTIME))
        shards = [list(packed.read(number)) for number in range(len(packed.shards))]
        rng = np.random.default_rng(7)
        words = rng.normal(size=(len(packed.classes), 1, DIM)) + 0.3 * rng.normal(size=(1, len(packed.templates), DIM))
        prompts = PromptShard(words.reshape(-1, DIM).astype(np.float32), packed.classes, packed.templates)
        folder, view = layout.embeddings(split), {"view": {"kind": "center"}}
        parts: dict[str, list[Shard]] = {
            "image/view-00": [embed_images(shard) for shard in shards],
            "prompts": [prompts],
        }
        made = {name: write_part(folder, name, each, {"part": name, **view}, TEACHER) for name, each in parts.items()}
        write_manifest(folder, Manifest(split, TEACHER, {"packed": packed.digest}, {"numpy": "2"}, 16, made))
    return layout


def domain_project(root: Path, **changes: Any) -> Project:
    """Return the project with a comparison over its domains."""
    document = {
        "runtime": {"workers": 0, "batch": 64, "device": "cpu"},
        "index": {"splits": ["train", "val"]},
        "compare": {**COMPARE, **changes},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return Project.open(root / "params.yaml", [], root)
