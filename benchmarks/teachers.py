"""A student of one teacher, of the other, of their ensemble, and with a head for each: what each of them can do.

    cd DATA                    # flickr8k, cifar10, photo-64 and the weights; tinyimagenet-4k: four of the tars
    for stage in index pack embed moments whiten; do
        python .../cli.py $stage --params .../benchmarks/teachers.yaml --root two-teachers; done
    python .../benchmarks/teachers.py --params .../benchmarks/teachers.yaml --root two-teachers

Every arm sees the same batches in the same order. Zero-shot and retrieval are those of the part of the embedding whose
teacher reads; the probes are of the backbone's features, which all arms have alike: 20 nearest neighbors, and logistic
regression. Costs: seconds of this process's CPU a run, and the bytes of each teacher's cached embeddings.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.small_runs import Scores, finish, finished, print_table
from cache.ensemble import unit_blocks
from cache.teachers import members, teacher_folders, teacher_names, widths
from pipeline.evaluation.metrics.probes import knn_accuracy, linear_accuracy
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, score_retrieval
from pipeline.evaluation.scoring_rules import clip_spaces, image_vectors, predict_classes, prompt_vectors
from pipeline.project.device import choose_device
from pipeline.project.project import Project
from pipeline.students.inference import center_views
from pipeline.students.inputs.splits import EmbeddedSplit, open_split
from pipeline.students.model import Student, normalize_pixels
from pipeline.students.run import ArmParams, TrainingRun, load_run_targets, read_recipe
from pipeline.students.training.loop import ResumeConfig
from pipeline.students.training.validation import nmse
from pipeline.whitening.spaces import TargetSpace, load_space

PROBED = 2000
"""Images of the zero-shot set that probes are taught and tested on."""


@dataclass(frozen=True)
class Arm:
    """A target space, and the splits as its teachers embed them."""

    space: TargetSpace
    splits: dict[str, EmbeddedSplit]
    project: Project

    def run(self, student: str, recipe: ArmParams, state: Path) -> Scores:
        """Train a student and score it."""
        began, size = time.process_time(), recipe.training.image_size
        layout, runtime = self.project.layout, self.project.runtime
        pixels = {name: split.pixels(size, 1, layout, runtime) for name, split in self.splits.items()}
        targets = load_run_targets(self.splits["train"], self.space, recipe)
        run = TrainingRun.build(student, recipe, targets, pixels["train"], choose_device(runtime.device))
        kept, _ = run.train(lambda _: {}, ResumeConfig(state))
        seconds = time.process_time() - began
        kept.eval()
        rows = {name: self._rows(name, kept, pixels[name], size) for name in ("val", "cifar10")}
        found = self._r2(kept, pixels["val"], size)
        if any(member["context_length"] for member in members(self.space.teacher)):
            found |= self._zero_shot(rows["cifar10"]) | self._retrieval(rows["val"])
        return {**found, **self._probes(kept, pixels["cifar10"], size), "seconds": seconds}

    def ceilings(self) -> Scores:
        """Return what the teachers of the arm score themselves."""
        rows = {name: self.splits[name].store.image().load() for name in ("val", "cifar10")}
        labels = np.asarray(self.splits["cifar10"].store.labels)[_probed(len(rows["cifar10"]))]
        probed = rows["cifar10"][_probed(len(rows["cifar10"]))]
        found = {"knn": knn_accuracy(probed, labels), "linear": linear_accuracy(probed, labels)}
        if any(member["context_length"] for member in members(self.space.teacher)):
            found |= self._zero_shot(rows["cifar10"]) | self._retrieval(rows["val"])
        return found

    def _rows(self, name: str, student: Student, pixels: object, size: int) -> np.ndarray:
        views = center_views(self.splits[name].store, pixels)  # type: ignore[arg-type]
        rows = self.space.to_embedding(views.embed(student, size, 256))
        sizes = widths(self.space.teacher)
        return unit_blocks(rows, sizes) if sizes else rows

    def _r2(self, student: Student, pixels: object, size: int) -> Scores:
        """Return R² on val of each teacher's part of the target."""
        store = self.splits["val"].store
        said = center_views(store, pixels).embed(student, size, 256)  # type: ignore[arg-type]
        back, wanted = self.space.to_embedding(said), store.image().load()
        names = teacher_names(self.project.layout.embeddings("val"), self.space.teacher)
        ends = np.cumsum(widths(self.space.teacher) or (wanted.shape[1],))
        unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
        parts = zip(names, np.split(back, ends[:-1], axis=1), np.split(unit, ends[:-1], axis=1), strict=True)
        return {f"R2 {name}": 1 - nmse(mine, theirs) for name, mine, theirs in parts}

    def _zero_shot(self, rows: np.ndarray) -> Scores:
        store, spaces = self.splits["cifar10"].store, clip_spaces(self.space.teacher)
        classes = prompt_vectors("clip", store.prompts(), spaces)
        predicted = predict_classes(image_vectors("clip", rows, spaces), classes)
        return {"zero-shot": float(np.mean(predicted == np.asarray(store.labels)))}

    def _retrieval(self, rows: np.ndarray) -> Scores:
        store = self.splits["val"].store
        pairs = ground_truth_pairs(store.offsets, store.caption_hashes())
        ways = score_retrieval("clip", rows, store.text().load(), pairs, clip_spaces(self.space.teacher))
        return {"R@10": float(np.mean([way["R@10"] for way in ways.values()]))}

    def _probes(self, student: Student, pixels: object, size: int) -> Scores:
        """Score the backbone's pooled features, which know of no teacher's width."""
        store = self.splits["cifar10"].store
        chosen = _probed(store.rows)
        views = center_views(store, pixels)  # type: ignore[arg-type]
        images = views.pixels.batch(chosen, views.boxes[chosen], views.flips[chosen], size)
        mean, std = student.mean_std
        with torch.inference_mode():
            parts = [torch.from_numpy(images[i : i + 256].copy()) for i in range(0, len(images), 256)]
            features = torch.cat([student.backbone(normalize_pixels(part, mean, std)) for part in parts]).numpy()
        labels = np.asarray(store.labels)[chosen]
        return {"knn": knn_accuracy(features, labels), "linear": linear_accuracy(features, labels)}


def _probed(rows: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(rows)[:PROBED])


def open_arm(name: str, project: Project) -> Arm:
    """Open an arm by its target space."""
    space = load_space(project.layout.target(name))
    splits = {s: open_split(s, project.layout, project.runtime, space.teacher) for s in ("train", "val", "cifar10")}
    return Arm(space, splits, project)


def print_costs(project: Project) -> None:
    """Print how many bytes of embeddings each teacher has in the cache."""
    for split in ("train", "val", "cifar10"):
        folders = teacher_folders(project.layout.embeddings(split))
        for name, folder in folders.items():
            inner = [path for other, path in folders.items() if other != name and path.is_relative_to(folder)]
            files = [path for path in folder.rglob("*.h5") if not any(path.is_relative_to(each) for each in inner)]
            print(f"{split:8s} {name:10s} {sum(path.stat().st_size for path in files) / 1e6:8.1f} MB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    options = parser.parse_args(arguments)
    project = Project.open(options.params, (), options.root)
    names, (student, *_) = project.name_list("distill.targets"), project.name_list("distill.students")
    recipe = read_recipe(project, student)
    paths = {
        (name, seed): options.root / "runs" / "teachers" / f"{name}-{seed}.json"
        for seed in range(1, options.seeds + 1)
        for name in names
    }
    arms: dict[str, Arm] = {}

    def run(name: str, seed: int, state: Path) -> Scores:
        arms.setdefault(name, open_arm(name, project))
        training = recipe.training.model_copy(update={"seed": seed})
        return arms[name].run(student, ArmParams(training, recipe.loss, recipe.student), state)

    finish(paths, options.minutes, run)
    found = finished(paths)
    scores = sorted({score for runs in found.values() for one in runs.values() for score in one})
    print_table(found, names[0], scores)
    for name in found:
        ceilings = open_arm(name, project).ceilings()
        print(f"{name:18s} teachers: " + ", ".join(f"{score} {value:.4f}" for score, value in ceilings.items()))
    print_costs(project)


if __name__ == "__main__":
    main()
