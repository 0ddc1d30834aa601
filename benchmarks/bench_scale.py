"""Measure memory and time of every stage for growing numbers of samples.

    python benchmarks/bench_scale.py                              # 10,000 and 100,000 samples
    python benchmarks/bench_scale.py --samples 10000 1000000
    python benchmarks/bench_scale.py --until pack                 # the first two stages alone

Tars of so many 16 px JPEGs with captions are made on the spot (64 pictures under many keys), and walked by reference:
index, pack, embed (the sample's teacher), moments, whiten, two hundred steps of distill from streamed pixels, evaluate.
Each stage is a process of its own, by the command line. Its peak is of anonymous memory (RssAnon, looked at every 20 ms
and added over its worker processes): what it holds. Pages of mapped files are the system's to take back and are not
counted. The last column is the growth of the peak from the fewest samples to the most, over the samples that are more;
the goal is 100 bytes. The validation split stays small: it is the training set that grows.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import processor

ROOT = Path(__file__).parent.parent
STAGES = ("index", "pack", "embed", "moments", "whiten", "distill", "evaluate")
PICTURES, TAR_ROWS, STEPS, BATCH = 64, 10_000, 200, 64
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    """Time and memory of one stage."""

    seconds: float
    peak: int
    """Peak of anonymous memory in bytes."""


def main() -> None:
    """Measure and print."""
    options = _options()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}", flush=True)
    found = {}
    for samples in options.samples:
        with tempfile.TemporaryDirectory(prefix="bench-scale-", dir=options.folder) as folder:
            found[samples] = walk(Path(folder), samples, options)
    print("| stage | " + " | ".join(f"{n:,}: MB, s" for n in found) + " | bytes a sample more |")
    print("|---|" + "---|" * (len(found) + 1))
    counts = sorted(found)
    for stage in walked(options):
        each = " | ".join(f"{found[n][stage].peak / 1e6:.0f}, {found[n][stage].seconds:.1f}" for n in counts)
        growth = (found[counts[-1]][stage].peak - found[counts[0]][stage].peak) / max(1, counts[-1] - counts[0])
        print(f"| {stage} | {each} | {growth:.0f} |")


def walked(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the stages that are measured."""
    return STAGES[: STAGES.index(options.until) + 1]


def walk(folder: Path, samples: int, options: argparse.Namespace) -> dict[str, Measured]:
    """Make a project of so many training samples and run every stage of it."""
    make_tars(folder / "train", samples, "train")
    make_tars(folder / "val", 200, "val")
    write_params(folder / "params.yaml", folder, options.workers, -(-STEPS // (samples // BATCH)))
    found = {}
    for stage in walked(options):
        found[stage] = run_stage(stage, folder)
        print(f"{samples:,} {stage}: {found[stage].peak / 1e6:.0f} MB, {found[stage].seconds:.1f} s", flush=True)
    return found


def run_stage(stage: str, folder: Path) -> Measured:
    """Run a command and watch the memory of it and of its children."""
    command = [sys.executable, str(ROOT / "cli.py"), stage, "--params", str(folder / "params.yaml")]
    began = time.perf_counter()
    with (folder / f"{stage}.log").open("wb") as log:
        process = subprocess.Popen([*command, "--root", str(folder)], stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(_anonymous, _family(process.pid))))
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit((folder / f"{stage}.log").read_text(encoding="utf-8")[-2000:])
    return Measured(time.perf_counter() - began, peak)


def _family(pid: int) -> list[int]:
    """Return a process with all that it has started."""
    found = [pid]
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in path.read_text(encoding="ascii").split():
                found += _family(int(child))
    return found


def _anonymous(pid: int) -> int:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
    return 0


def make_tars(folder: Path, samples: int, split: str) -> None:
    """Write img2dataset's layout: `<tar><number>.jpg`, `.json`, `.txt`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = [_picture(rng) for _ in range(PICTURES)]
    for number in range(-(-samples // TAR_ROWS)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for row in range(min(TAR_ROWS, samples - number * TAR_ROWS)):
                key, caption = f"{number:05d}{row:05d}", f"a {split} picture of kind {row % PICTURES}, number {row}"
                for name, data in ((".jpg", pictures[row % PICTURES]), (".txt", caption.encode())):
                    info = tarfile.TarInfo(key + name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def _picture(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((16, 16), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_params(path: Path, folder: Path, workers: int, epochs: int) -> None:
    """Write the parameters of a walk."""
    training = {
        "epochs": epochs,
        "steps": STEPS,
        "batch": BATCH,
        "image_size": 32,
        "pixels": "streamed",
        "num_validations": 1,
    }
    document = {
        "runtime": {"device": "cpu", "workers": workers, "batch": 256},
        "index": {
            "splits": ["train", "val"],
            **{split: {"source": "tars", "tars": str(folder / split)} for split in ("train", "val")},
        },
        "pack": {"shard_rows": 1000, "mode": "reference"},
        "embed": {"teacher": {"model": f"local-dir:{ROOT / 'presets/sample-teacher'}", "precision": "fp32"}},
        "whiten": {"targets": ["zca"], "zca": {"method": "zca", "floor": 0.01}},
        "distill": {"students": ["resnet-tiny"], "targets": ["zca"], "training": training, "loss": {"fd": 1.0}},
        "evaluate": {"rules": ["clip"]},
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage that is walked")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work")
    return parser.parse_args()


if __name__ == "__main__":
    main()
