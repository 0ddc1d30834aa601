"""Compute disk, hours and money of every stage for COCO, CC3M, CC12M and LAION-400M.

    python benchmarks/scale_costs.py                       # the table of docs/scale.md
    python benchmarks/scale_costs.py --gpu-tflops 100 --gpu-hour 1.5 --core-hour 0.04

Two kinds of numbers go in. MEASURED rates come from benchmarks/README.md (processor work: reading, hashing, decoding,
moments). ASSUMED ones were never measured by this project, which has had no GPU: what a GPU computes, how much of it a
model uses, and what an hour costs. Options change them. A stage takes the longer of what its cores and what its GPUs
need; stages follow one another; a second of a machine is paid for with all of its cores and GPUs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

MEASURED = {
    "read and check": 0.61e-6,  # s a kB: 42 µs to read and 28 for CRC-32 of 114 kB ("Packing")
    "headers": 60e-6,  # s an image: headers, description and checks of the same
    "decode": 6.6e-3
    / (640 * 480),  # s a pixel of a core: a photo of 640 x 480 in full, with its center view ("Moments")
    "moments": 2 * 15e-6,  # s of a core and a pair of rows at d = 512: 14-17 µs on two cores ("Moments")
}
"""Seconds of one core of an Intel Xeon."""
DIM, TOKENS, KEY, SIDE = 512, 77, 9, 224
TEACHER_GFLOP = 2 * 17.6
"""A forward pass of ViT-B-16 at 224 px, of an image; of a caption a sixth."""
STUDENT_GFLOP = 3 * 2 * 0.22
"""A step of mobilenetv3 at 224 px, of an image: forward and backward."""


@dataclass(frozen=True)
class Dataset:
    """A data set as it lies on disk, and how often a student sees it."""

    name: str
    images: int
    captions: int
    """Of an image."""
    kilobytes: float
    """Of a file."""
    pixels: int
    epochs: int
    stored: bool = False
    """Whether decoded pixels fit on the disk; else images are decoded in each epoch."""


DATASETS = (
    Dataset("COCO", 118_287, 5, 163, 640 * 480, 100, stored=True),
    Dataset("CC3M", 3_000_000, 1, 27.6, 256 * 256, 20),
    Dataset("CC12M", 12_000_000, 1, 27.6, 256 * 256, 8),
    Dataset("LAION-400M", 400_000_000, 1, 25, 256 * 256, 1),
)


@dataclass(frozen=True)
class Machine:
    """Nodes with cores and GPUs that work side by side."""

    name: str
    nodes: int
    cores: int
    gpus: int


MACHINES = (Machine("one GPU", 1, 16, 1), Machine("eight GPUs", 1, 128, 8), Machine("8 x 8 GPUs", 8, 1024, 64))


@dataclass(frozen=True)
class Assumptions:
    """What was not measured."""

    gpu_tflops: float = 312
    """Of bf16 on one GPU (A100, by its data sheet)."""
    teacher_use: float = 0.35
    student_use: float = 0.05
    """Share of it that a large transformer and a small convolutional network reach."""
    read_gigabytes: float = 1.0
    """A second and node, from a disk or object storage."""
    gpu_hour: float = 2.0
    core_hour: float = 0.05
    """Dollars."""


def disk_gigabytes(data: Dataset) -> dict[str, float]:
    """Return what each stage writes, by docs/format.md: packed by reference; pixels at 224 px where they are stored."""
    image = 4 * DIM + 17 + KEY
    caption = 4 * DIM + 4 * TOKENS + 64 + 8
    each = {"pack": 300, "embed": image + data.captions * caption, "pixels": data.stored * (3 * SIDE**2 + 40 + KEY)}
    return {stage: data.images * size / 1e9 for stage, size in each.items()}


def stage_seconds(data: Dataset, machine: Machine, assumed: Assumptions) -> dict[str, float]:
    """Return seconds of each stage that grows with the data."""
    n = data.images
    decode = n * MEASURED["decode"] * data.pixels / machine.cores
    check = n * (MEASURED["read and check"] * data.kilobytes + MEASURED["headers"]) / machine.cores
    read = n * data.kilobytes / 1e6 / (machine.nodes * assumed.read_gigabytes)
    flops = machine.gpus * assumed.gpu_tflops * 1e12
    teacher = n * TEACHER_GFLOP * 1e9 * (1 + data.captions / 6) / (flops * assumed.teacher_use)
    student = n * STUDENT_GFLOP * 1e9 / (flops * assumed.student_use)
    epochs = data.epochs
    return {
        "pack": max(check, read),
        "embed": max(decode, read, teacher),
        "moments": n * MEASURED["moments"] * (1 + data.captions) / 2 / machine.cores,
        "distill": decode + epochs * student if data.stored else epochs * max(decode, read, student),
    }


def dollars(seconds: float, machine: Machine, assumed: Assumptions) -> float:
    """Return what a machine costs for so long."""
    return seconds / 3600 * (machine.gpus * assumed.gpu_hour + machine.cores * assumed.core_hour)


def table(assumed: Assumptions) -> Iterator[str]:
    """Yield the lines of a Markdown table: hours and dollars by data set, machine and stage."""
    yield "| data | machine | disk | pack | embed | moments | distill, epochs | all | cost |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for data in DATASETS:
        disk = sum(disk_gigabytes(data).values())
        for machine in MACHINES:
            seconds = stage_seconds(data, machine, assumed)
            total = sum(seconds.values())
            cells = [_time(seconds[stage]) for stage in ("pack", "embed", "moments")]
            cells += [f"{_time(seconds['distill'])}, {data.epochs}", _time(total)]
            cost = dollars(total, machine, assumed)
            yield f"| {data.name} | {machine.name} | {_size(disk)} | {' | '.join(cells)} | ${cost:,.0f} |"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} d"


def _size(gigabytes: float) -> str:
    return f"{gigabytes / 1000:.1f} TB" if gigabytes >= 1000 else f"{gigabytes:.1f} GB"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Assumptions()
    for name, value in vars(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help=f"assumed: {value}")
    print("\n".join(table(Assumptions(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
