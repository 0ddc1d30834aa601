"""Measure the effect of `pack.resize` on the teacher's embeddings and on retrieval.

    python benchmarks/bench_resize.py --root DIR --teacher local-dir:DIR      # a project whose val is embedded

Each image of `val` is resized as `pack` does it, decoded, and shown to the teacher. Printed are the cosines with the
embeddings of the originals, and retrieval among the same captions. The last line is a control: the originals again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from cache.reader import EmbeddingStore
from pipeline.data.images import Encoding, decode, encode_for_packing
from pipeline.data.packing.packed import Sample, open_packed
from pipeline.data.views import apply_view, center_view
from pipeline.project.layout import Layout
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams


def main() -> None:
    """Measure and print."""
    options = _options()
    layout, teacher = Layout(options.root), load_teacher(TeacherParams(model=options.teacher), "cpu")
    packed, store = open_packed(layout.packed("val")), EmbeddingStore.open(layout.embeddings("val"))
    samples = [sample for number in range(len(packed.shards)) for sample in packed.read(number)]
    before, text, owners = store.image().load(), store.text().load(), np.diff(store.offsets)
    size = teacher.identity.image_size
    print(f"{len(samples)} images, teacher at {size} px, {sum(len(s.image) for s in samples) / 1e6:.1f} MB packed")
    tried = [(round(size * ratio), quality) for ratio in options.ratios for quality in options.qualities]
    for side, quality in [*tried, (None, 92)]:
        images = [encode_for_packing(sample.image, Encoding(side, quality)).data for sample in samples]
        after = embed(teacher, samples, images)
        cosines = (unit(before) * unit(after)).sum(1)
        found = [recall(each, text, owners) for each in (before, after)]
        how = f"shorter side {side} ({side / size:.2f} x), quality {quality}" if side else "originals"
        print(
            f"{how}: {sum(map(len, images)) / 1e6:.1f} MB; cosine mean {cosines.mean():.4f}, 1 in 100 below "
            f"{np.quantile(cosines, 0.01):.4f}, least {cosines.min():.4f}; R@1 image to text {found[0][0]:.3f} -> "
            f"{found[1][0]:.3f}, text to image {found[0][1]:.3f} -> {found[1][1]:.3f}",
            flush=True,
        )


def embed(teacher: Teacher, samples: list[Sample], images: list[bytes]) -> np.ndarray:
    """Return the teacher's embeddings of the images' center views."""
    size, how = teacher.identity.image_size, teacher.identity.preprocess["interpolation"]
    pixels = []
    for data in images:
        image = decode(data)
        pixels.append(apply_view(image, center_view(*image.size), size, how))
    batches = [np.stack(pixels[at : at + 250]) for at in range(0, len(pixels), 250)]
    return np.concatenate([teacher.embed_images(batch) for batch in batches])


def recall(image: np.ndarray, text: np.ndarray, owners: np.ndarray) -> tuple[float, float]:
    """Return R@1 from images to texts and back, by cosine."""
    owner = np.repeat(np.arange(len(image)), owners)
    scores = unit(image) @ unit(text).T
    return float((owner[scores.argmax(1)] == np.arange(len(image))).mean()), float((scores.argmax(0) == owner).mean())


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length one."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a project: data/packed/val, data/embeddings/val")
    parser.add_argument("--teacher", required=True, help="the teacher that it was embedded with")
    parser.add_argument("--ratios", nargs="+", type=float, default=[1.0, 256 / 224, 1.5], help="sides by the teacher's")
    parser.add_argument("--qualities", nargs="+", type=int, default=[75, 92, 98])
    return parser.parse_args()


if __name__ == "__main__":
    main()
