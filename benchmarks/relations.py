"""What a light network on dense maps adds to CLIP's cosine: binding, place, negation and number in the drawn world.

    python benchmarks/relations.py --out DIR                       # every arm, seeds 0 to 4; stop and go on at will
    python benchmarks/relations.py --out DIR --negatives batch --groups 4     # all texts of a step, at twice the cost
    python benchmarks/relations.py --out DIR --one-each            # a scorer for each task in place of one for all
    python benchmarks/relations.py --out DIR --arms dcsm --quadruples 200 --epochs 1 --seeds 0
    python benchmarks/relations.py --out DIR --frontier            # bytes an image against accuracy, of `dcsm`

A seed draws pictures of its own and fits every scorer from weights of its own, so arms are paired by seed. Each
finished arm is one JSON file in DIR, with accuracy and group accuracy by task: of kinds of things that were fitted
on, and of kinds that never were. An arm that was stopped goes on with its epoch. Beside the accuracies, the table has
the paired differences from `dcsm`, each with a 95 % interval over seeds. Arms:

    cosine, late       nothing is fitted
    labclip            a matrix between the pooled vectors
    dcsm               the two-dimensional network on the map
    published          the authors' layout of it
    no-rows            dcsm without functional rows
    wrong-column       dcsm with functional rows where the published code writes them
    shuffled           dcsm, the patches of each image in an order of its own
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from cache.atomic import write_json
from cache.token_codecs import TokenCodec, decode_tokens, encode_tokens, token_bytes
from pipeline.data.synthetic.relations import TASKS, draw_relation
from pipeline.relations.choice_sets import ChoiceSet, Question, choice_accuracy
from pipeline.relations.compression import fit_codec
from pipeline.relations.fitting import fit_scorer, score_pairs
from pipeline.relations.params import ScorerParams, functional_rows
from pipeline.relations.scorers import Scorer, build_scorer
from pipeline.relations.token_arrays import TokenArrays, pad_words
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.tokens import TokenReader, token_reader, words_of_tokens

ARMS: dict[str, dict[str, Any]] = {
    "cosine": {"kind": "cosine"},
    "late": {"kind": "late"},
    "labclip": {"kind": "labclip"},
    "dcsm": {"kind": "dcsm"},
    "published": {"kind": "dcsm-published"},
    "no-rows": {"kind": "dcsm", "functional_column": "none"},
    "wrong-column": {"kind": "dcsm", "functional_column": "published"},
    "shuffled": {"kind": "dcsm", "shuffle_patches": True},
}
COLUMNS = 16
VARIABLES = ("quadruples", "epochs", "groups", "negatives", "one_each", "held_out")
BATCH = 128
CODECS: dict[str, tuple[str, int | None, int]] = {
    "float16": ("float16", None, 0),
    "int8": ("int8", None, 0),
    "int4": ("int4", None, 0),
    "rank 32 int8": ("int8", 32, 0),
    "rank 16 float16": ("float16", 16, 0),
    "rank 8 float16": ("float16", 8, 0),
    "pq 16 bytes": ("pq", None, 16),
    "pq 8 bytes": ("pq", None, 8),
    "pq 4 bytes": ("pq", None, 4),
}
GRIDS = (4, 2, 1)


@dataclass(frozen=True)
class RelationSet:
    """Questions of one part with their tokens."""

    choices: ChoiceSet
    tokens: TokenArrays
    words_of_tokens: np.ndarray

    def with_params(self, params: ScorerParams) -> TokenArrays:
        """Return the tokens as a scorer's parameters want them."""
        rows = functional_rows(
            self.choices.texts, self.words_of_tokens, params.functional_column, params.functional_words
        )
        return replace(self.tokens, functional_row=rows, shuffled=params.shuffle_patches)

    def of_tasks(self, tasks: Sequence[str]) -> RelationSet:
        """Return the questions of some tasks; images keep their rows."""
        choices = ChoiceSet(tuple(question for question in self.choices.questions if question.task in tasks))
        row = {text: i for i, text in enumerate(self.choices.texts)}
        rows = np.array([row[text] for text in choices.texts])
        texts = {name: getattr(self.tokens, name)[rows] for name in ("text_pooled", "words", "valid", "functional_row")}
        return RelationSet(choices, replace(self.tokens, **texts), self.words_of_tokens[rows])


def main() -> None:
    """Run what is missing and print what is there."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        paths = {arm: options.out / f"{arm}-{seed}.json" for arm in options.arms}
        frontier = options.out / f"frontier-{seed}.json"
        if all(path.exists() for path in paths.values()) and (frontier.exists() or not options.frontier):
            continue
        sets = _sets(options, seed)
        for arm, path in paths.items():
            drawn = arm == "dcsm" and options.frontier
            if not path.exists() or (drawn and not frontier.exists()):
                _run(arm, seed, sets, options, drawn)
    _print(options)


def _run(arm: str, seed: int, sets: dict[str, RelationSet], options: argparse.Namespace, frontier: bool) -> None:
    given = {name: getattr(options, name) for name in ("epochs", "groups", "negatives")}
    params = ScorerParams(**(given | {"columns": COLUMNS, "seed": seed} | ARMS[arm]))
    start = time.process_time()
    scorers: dict[str, Scorer] = {}
    for tasks in [(task,) for task in TASKS] if options.one_each else [TASKS]:
        state = options.out / f"{arm}-{seed}-{'-'.join(tasks)}.state.safetensors"
        scorer = _fit(sets["relations-train"].of_tasks(tasks), params, state)
        scorers |= dict.fromkeys(tasks, scorer)
    seconds = time.process_time() - start
    accuracy = {name: _accuracy(scorers, part, params) for name, part in sets.items() if "train" not in name}
    size = sum(parameter.numel() for parameter in scorers[TASKS[0]].parameters())
    write_json(
        options.out / f"{arm}-{seed}.json",
        {"arm": arm, "seed": seed, "seconds": seconds, "parameters": size, **vars_of(options), "accuracy": accuracy},
    )
    for path in options.out.glob(f"{arm}-{seed}-*.state.safetensors"):
        path.unlink()
    print(f"{arm} {seed}: {seconds:.0f} s {json.dumps(accuracy)}", flush=True)
    if frontier:
        write_json(
            options.out / f"frontier-{seed}.json",
            {"seed": seed, **vars_of(options), "codecs": _frontier(scorers, sets, params)},
        )


def _fit(train: RelationSet, params: ScorerParams, state: Path) -> Scorer:
    scorer = build_scorer(params, train.tokens.text_pooled.shape[1], train.tokens.patches.shape[1])
    if list(scorer.parameters()):
        fit_scorer(scorer, train.choices, train.with_params(params), params, state=state)
    return scorer


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides a result."""
    return {name: getattr(options, name) for name in VARIABLES}


def _accuracy(scorers: Mapping[str, Scorer], part: RelationSet, params: ScorerParams) -> dict[str, list[float]]:
    """Return text and group accuracy of each task by its scorer."""
    found = {}
    for task, scorer in scorers.items():
        own = part.of_tasks([task])
        accuracy = choice_accuracy(own.choices, score_pairs(scorer, own.with_params(params), own.choices.pairs), task)
        found[task] = [accuracy.text, accuracy.group or 0.0]
    return found


def _frontier(scorers: Mapping[str, Scorer], sets: dict[str, RelationSet], params: ScorerParams) -> dict[str, Any]:
    """Score the validation set from compressed tokens, both modalities through the same codec."""
    train, val = sets["relations-train"], sets["relations-val"]
    tokens = val.tokens
    patches = train.tokens.patches[:500].reshape(-1, train.tokens.patches.shape[2]).astype(np.float32)
    words = train.tokens.words[:4000][train.tokens.valid[:4000]].astype(np.float32)
    near = {}
    places, dim = tokens.patches.shape[1:]
    for name, (form, rank, parts) in CODECS.items():
        codec = fit_codec(form, rank, parts, patches, words)  # type: ignore[arg-type]
        coded = replace(tokens, patches=_through(codec, tokens.patches), words=_through(codec, tokens.words))
        near[name] = token_bytes(codec, dim) * places, coded
    for grid in GRIDS:
        near[f"grid {grid} float16"] = 2 * dim * grid**2, replace(tokens, patches=_pooled(tokens.patches, grid))
    found = {
        name: {
            "bytes": size,
            "map_error": _map_error(tokens, coded),
            "accuracy": _accuracy(scorers, replace(val, tokens=coded), params),
        }
        for name, (size, coded) in near.items()
    }
    print(json.dumps(found), flush=True)
    return found


def _through(codec: TokenCodec, tokens: np.ndarray) -> np.ndarray:
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float32)
    coded = encode_tokens(codec, flat)
    return decode_tokens(codec, coded.codes, coded.scale).reshape(tokens.shape)


def _pooled(patches: np.ndarray, grid: int) -> np.ndarray:
    n, p, d = patches.shape
    side = int(p**0.5)
    blocks = patches.astype(np.float32).reshape(n, grid, side // grid, grid, side // grid, d).mean(axis=(2, 4))
    blocks /= np.linalg.norm(blocks, axis=-1, keepdims=True)
    return blocks.repeat(side // grid, axis=1).repeat(side // grid, axis=2).reshape(n, p, d)


def _map_error(exact: TokenArrays, near: TokenArrays, count: int = 200) -> float:
    """Return the root mean square error of maps over their deviation, of true entries only."""
    rows = np.arange(min(count, len(exact.patches), len(exact.words)))
    maps = [
        np.einsum("npd,ntd->npt", t.patches[rows].astype(np.float32), t.words[rows].astype(np.float32)).transpose(
            0, 2, 1
        )[exact.valid[rows]]
        for t in (exact, near)
    ]
    return float(np.sqrt(np.square(maps[0] - maps[1]).mean()) / maps[0].std())


def _sets(options: argparse.Namespace, seed: int) -> dict[str, RelationSet]:
    reader = token_reader(load_teacher(TeacherParams(model=options.teacher), "cpu"), options.grid)
    counts = {
        "relations-train": options.quadruples,
        "relations-val": options.held_out,
        "relations-unseen": options.held_out,
    }
    return {part: _read(reader, part, 2 * len(TASKS) * count, seed) for part, count in counts.items()}


def _read(reader: TokenReader, part: str, count: int, seed: int) -> RelationSet:
    pooled, patches, questions = [], [], []
    for start in range(0, count, BATCH):
        scenes = [draw_relation(part, number, seed) for number in range(start, min(start + BATCH, count))]
        pixels = np.stack([image for image, _ in scenes])
        pooled.append(reader.teacher.embed_images(pixels))
        patches.append(reader.embed_patches(pixels).astype(np.float16))
        questions += [Question(start + i, s.caption, (s.foil,), s.task, s.group) for i, (_, s) in enumerate(scenes)]
    choices = ChoiceSet(tuple(questions))
    ids = reader.teacher.tokenize(choices.texts)
    words, lengths = reader.embed_words(ids)
    padded, valid = pad_words(words.astype(np.float16), np.cumsum([0, *lengths]), COLUMNS)
    numbers = np.full(valid.shape, -1, np.int64)
    numbers[valid] = np.concatenate(words_of_tokens(reader.teacher, choices.texts, ids))
    tokens = TokenArrays(
        np.concatenate(pooled), np.concatenate(patches), reader.teacher.embed_tokens(ids), padded, valid, numbers
    )
    return RelationSet(choices, tokens, numbers)


def _print(options: argparse.Namespace) -> None:
    print(f"{'arm':17} {'seeds':>5} " + " ".join(f"{task:>24}" for task in TASKS))
    for part in ("relations-val", "relations-unseen"):
        runs = {arm: _read_runs(options, arm, part) for arm in options.arms}
        for arm, of_seed in runs.items():
            if of_seed:
                _print_row(arm, part, np.array(list(of_seed.values())))
        for arm, of_seed in runs.items():
            if arm != "dcsm" and (seeds := sorted(of_seed.keys() & runs.get("dcsm", {}).keys())):
                _print_row(f"- {arm}", part, np.array([np.subtract(runs["dcsm"][s], of_seed[s]) for s in seeds]))
    _print_frontier(options)


def _print_frontier(options: argparse.Namespace) -> None:
    paths = [path for seed in options.seeds if (path := options.out / f"frontier-{seed}.json").exists()]
    runs = [json.loads(path.read_text())["codecs"] for path in paths]
    for name in runs[0] if runs else ():
        error = 100 * float(np.mean([run[name]["map_error"] for run in runs]))
        _print_row(name, f"{runs[0][name]['bytes']:,} bytes, map error {error:.1f} %", _by_task(runs, name))
        _print_row(f"- {name}", "from float16", _by_task(runs, "float16") - _by_task(runs, name))


def _by_task(runs: Sequence[Mapping[str, Any]], codec: str) -> np.ndarray:
    """Return (seeds, tasks, 2): text and group accuracy."""
    return np.array([[run[codec]["accuracy"][task] for task in TASKS] for run in runs])


def _read_runs(options: argparse.Namespace, arm: str, part: str) -> dict[int, list[list[float]]]:
    """Return text and group accuracy of each task, by seed."""
    paths = {seed: options.out / f"{arm}-{seed}.json" for seed in options.seeds}
    found = {seed: json.loads(path.read_text())["accuracy"][part] for seed, path in paths.items() if path.exists()}
    return {seed: [accuracy[task] for task in TASKS] for seed, accuracy in found.items()}


def _print_row(name: str, part: str, values: np.ndarray) -> None:
    cells = [_cell(values[:, i]) for i in range(len(TASKS))]
    print(f"{name:17} {len(values):>5} " + " ".join(f"{cell:>24}" for cell in cells) + f"  {part}")


def _cell(values: np.ndarray) -> str:
    """Return mean ± half of a 95 % interval over seeds (t), and the mean group accuracy."""
    from scipy.stats import t

    text, group = 100 * values[:, 0], 100 * values[:, 1]
    half = t.ppf(0.975, len(text) - 1) * text.std(ddof=1) / len(text) ** 0.5 if len(text) > 1 else float("nan")
    return f"{text.mean():.1f} ± {half:.1f} ({group.mean():.1f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", default="local-dir:presets/sample-teacher")
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--quadruples", type=int, default=1000, help="of each task, to fit on")
    parser.add_argument("--held-out", type=int, default=250, help="of each task, in each held-out part")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--groups", type=int, default=8, help="in a step")
    parser.add_argument("--negatives", choices=("batch", "group"), default="group")
    parser.add_argument("--one-each", action="store_true", help="fit a scorer for each task, not one for all")
    parser.add_argument("--frontier", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
