"""Worlds in which number is told differently: where things stand, how many, and what the two captions exchange.

    python benchmarks/relation_worlds.py [--worlds row row-large] [--quadruples 1500] [--epochs 6]

`dcsm` is fitted on the number task alone, against the texts of its own group, and tested on quadruples of kinds that
were fitted on and of kinds that were not: text accuracy and group accuracy in %.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.relation_sets import COLUMNS, SetSizes, World, accuracy_by_task, open_reader, read_sets
from pipeline.data.synthetic.captions import NUMBERS, plural
from pipeline.data.synthetic.relations import (
    CELLS,
    COLORS,
    CROWD,
    PAIR,
    SEEN_KINDS,
    STREAMS,
    UNSEEN_KINDS,
    RelationScene,
    Thing,
    paint_things,
)
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import MEDIA
from pipeline.relations.fitting import fit_scorer
from pipeline.relations.params import PUBLISHED, ScorerParams
from pipeline.relations.scorers import build_scorer

TASK = "number"
ROW = ((0.19, 0.5), (0.5, 0.5), (0.81, 0.5))
SIX = ((1, 2), (1, 3), (2, 3), (2, 1), (3, 1), (3, 2))
Picture = UInt8[np.ndarray, "64 64 3"]


@dataclass(frozen=True)
class NumberWorld:
    """Pictures of m things of one kind and n of another, and pictures of n and m at the same places."""

    counts: tuple[tuple[int, int], ...]
    places: tuple[tuple[float, float], ...]
    half: float
    """Half of a thing's side in canvas pixels."""
    in_order: bool = False
    """Whether the first kind stands at the first places; else at random ones."""
    exchanged: str = "numbers"
    """What differs between the captions: numbers ("one a and two b" / "two a and one b"), or kinds."""

    def draw(self, part: str, number: int, seed: int) -> tuple[Picture, RelationScene]:
        """Return scene `number` of a part: 2g and 2g + 1 are counterparts."""
        group, member = divmod(number, 2)
        dice = SceneRng(STREAMS[part], 4 * group, seed)
        kinds = UNSEEN_KINDS if part == "relations-unseen" else SEEN_KINDS
        first = dice.choice(kinds)
        second = dice.choice([kind for kind in kinds if kind != first])
        m, n = dice.choice(self.counts)
        captions = self._captions((first, m), (second, n))
        colors = {first: dice.choice(COLORS), second: dice.choice(COLORS)}
        kinds_at = [first if i < (n if member else m) else second for i in range(m + n)]
        places = self._places(dice, m + n)
        things = tuple(Thing(k, colors[k], place, self.half) for k, place in zip(kinds_at, places, strict=True))
        caption, foil = captions[member], captions[1 - member]
        scene = RelationScene(things, caption, foil, TASK, f"{group:06d}", "painting")
        return paint_things(things, MEDIA["painting"], SceneRng(STREAMS[part], 4 * group + 1 + member, seed)), scene

    def _captions(self, first: tuple[str, int], second: tuple[str, int]) -> tuple[str, str]:
        (a, m), (b, n) = first, second
        other = [(b, m), (a, n)] if self.exchanged == "kinds" else [(a, n), (b, m)]
        one, two = (" and ".join(counted(*each) for each in pair) for pair in ([first, second], other))
        return one, two

    def _places(self, dice: SceneRng, count: int) -> list[tuple[float, float]]:
        free = list(self.places)
        return [free.pop(0 if self.in_order else int(dice.uniform() * len(free))) for _ in range(count)]


def counted(kind: str, count: int) -> str:
    """Return "one pear", "two pears"."""
    return f"{NUMBERS[count]} {kind if count == 1 else plural(kind)}"


WORLDS = {
    "cells": NumberWorld(SIX, CELLS, CROWD),
    "cells-kinds": NumberWorld(((1, 2), (1, 3), (2, 3)), CELLS, CROWD, exchanged="kinds"),
    "row": NumberWorld(((1, 2), (2, 1)), ROW, CROWD, in_order=True),
    "row-kinds": NumberWorld(((1, 2),), ROW, CROWD, in_order=True, exchanged="kinds"),
    "row-large": NumberWorld(((1, 2), (2, 1)), ROW, PAIR, in_order=True),
    "row-large-kinds": NumberWorld(((1, 2),), ROW, PAIR, in_order=True, exchanged="kinds"),
}
"""`cells` is the sample's own, in one medium and without openings before its captions."""


def main() -> None:
    """Fit a scorer in each world, and print what it gets right."""
    options = _options()
    words = (*PUBLISHED, "one", "two", "three") if options.number_words else PUBLISHED
    params = ScorerParams(
        kind="dcsm",
        columns=COLUMNS,
        epochs=options.epochs,
        groups=8,
        negatives="group",
        seed=options.seed,
        functional_words=words,
    )
    reader = open_reader(options.teacher, options.grid)
    for name in options.worlds:
        start = time.process_time()
        sets = read_sets(
            reader, SetSizes(options.quadruples, options.held_out), options.seed, World((TASK,), WORLDS[name].draw)
        )
        train = sets["relations-train"]
        scorer = build_scorer(params, train.tokens.text_pooled.shape[1], train.tokens.patches.shape[1])
        fit_scorer(scorer, train.choices, train.with_params(params), params)
        cells = [accuracy_by_task({TASK: scorer}, sets[part], params)[TASK] for part in sets]
        line = ", ".join(
            f"{part} {100 * text:.1f} ({100 * group:.1f})" for part, (text, group) in zip(sets, cells, strict=True)
        )
        print(f"{name}: {line}; {time.process_time() - start:.0f} s", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--teacher", default="local-dir:presets/sample-teacher")
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--quadruples", type=int, default=1500, help="to fit on")
    parser.add_argument("--held-out", type=int, default=250, help="in each held-out part")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number-words", action="store_true", help="`one`, `two`, `three` among the functional words")
    return parser.parse_args()


if __name__ == "__main__":
    main()
