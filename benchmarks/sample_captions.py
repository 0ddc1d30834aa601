"""Write captions of the embedded sample's first training images that leave nothing out, as a captioner would.

    python benchmarks/sample_captions.py [--images 1000] [--out presets/sample-captions.jsonl]

The sample's own captions leave out attributes at random, as people do. These name everything that a scene is made of:
medium, numbers, sizes, textures, colors, kinds, place and light. They are read off the scene, not off its pixels, so
they have no mistakes, which a real captioner's have. One a picture, JSON lines; the same bytes each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cache.atomic import write_text
from pipeline.data.synthetic.backgrounds import PLACES
from pipeline.data.synthetic.captions import (
    LIGHT_WORDS,
    MEDIUM_WORDS,
    NUMBERS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    plural,
    with_article,
)
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import Group, Scene, sample_scene
from pipeline.data.synthetic.world import STREAMS

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "presets" / "sample-captions.jsonl"


def describe_scene(scene: Scene) -> str:
    """Return one sentence that names every attribute of a scene."""
    things = " and ".join(_things(group) for group in scene.groups)
    words = [MEDIUM_WORDS[scene.medium][0], things, PLACES[scene.place].phrases[0], *LIGHT_WORDS[scene.light][:1]]
    return " ".join(words)


def _things(group: Group) -> str:
    words = [*SIZE_WORDS[group.size][:1], *TEXTURE_WORDS[group.texture][:1], group.color]
    if group.count == 1:
        return with_article(" ".join([*words, group.kind]))
    return " ".join([NUMBERS[group.count], *words, plural(group.kind)])


def sample_captions(images: int) -> list[str]:
    """Return a line for each of the first training images of the sample."""
    scenes = (sample_scene(SceneRng(STREAMS["train"], number, 0)) for number in range(images))
    return [json.dumps({"image": f"{n:06d}", "caption": describe_scene(scene)}) for n, scene in enumerate(scenes)]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    write_text(options.out, "\n".join(sample_captions(options.images)) + "\n")
    print(f"{options.images} captions in {options.out}")


if __name__ == "__main__":
    main()
