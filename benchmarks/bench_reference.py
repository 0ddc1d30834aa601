"""Measure disk and time saved by packing by reference, against copying the same tars, and how much could be saved.

    python benchmarks/bench_reference.py                                # drawn photos of 256 px, about 44 kB, in tars
    python benchmarks/bench_reference.py --shorter 480 --photos 4000    # of 480 px
    python benchmarks/bench_reference.py --tars DIR                     # tars of your own
    python benchmarks/bench_reference.py --parts                        # where the time goes

Both modes pack the same tars in turn, in this process, into an empty project each time. `bare` reads the tars in blocks
and computes the CRC-32 of every byte, and does nothing else: packing by reference promises a checksum of every image,
so that bare over copying is the smallest ratio that it can reach. A ratio is seconds of one over seconds of the other
within a round, and the median over the rounds is printed, of wall seconds and of processor seconds; on a busy machine
the latter are the steadier figure. Disk is what `du` counts below the project: shards, manifests and records. Whether
the samples are the same is compared at the end, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import processor
from pipeline.data.integrity import intact_format
from pipeline.data.packing.jobs import plan_jobs
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.base import LoadedSample
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime

Mode = Literal["copy", "reference"]
MODES: tuple[Mode, Mode] = ("copy", "reference")
PAIRS = (("reference", "copy"), ("bare", "copy"), ("reference", "bare"))
"""Ratios that are printed: one over the other."""
BLOCK_BYTES = 1 << 20
DISTINCT = 64
"""Photos that are drawn; tars repeat them under other keys."""
WRITTEN = 1_700_000_000.5
"""Time in the headers. WebDataset's writer, which img2dataset uses, writes fractions: an extended header a member."""


def main() -> None:
    """Measure and print."""
    options = _options()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-reference-", dir=options.folder) as name:
        folder = Path(name)
        tars = options.tars or draw_tars(folder / "tars", options.photos, options.shorter)
        files = sorted(tars.glob("*.tar"))
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} tars, {size / 1e6:.0f} MB", flush=True)
        if options.parts:
            print_parts(tars, options.rounds)
            return
        rounds = [_round(folder, tars, files, options) for _ in range(options.rounds + 1)][1:]  # the first warms up
        for what in ("wall", "processor"):
            report(what, [{arm: getattr(seconds, what) for arm, seconds in found.items()} for found in rounds])
        copy, referred = (_disk(folder / mode) for mode in MODES)
        print(f"disk: copy {copy / 1e6:.1f} MB, reference {referred / 1e6:.2f} MB; ratio {referred / copy:.4f}")
        print(f"samples compared byte for byte: {compare(folder)}, all the same")


class Seconds(NamedTuple):
    """Time of one arm of a round."""

    wall: float
    processor: float
    """Of this process and of its workers."""


def report(what: str, rounds: list[dict[str, float]]) -> None:
    """Print the median seconds of each arm, and each ratio with its smallest and largest."""
    medians = ", ".join(f"{arm} {np.median([found[arm] for found in rounds]):.2f} s" for arm in rounds[0])
    print(f"{what}: {medians}")
    for one, other in PAIRS:
        ratios = [found[one] / found[other] for found in rounds]
        print(
            f"  {one} / {other}: {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"median of {len(rounds)}"
        )


def print_parts(tars: Path, rounds: int) -> None:
    """Print the processor time of each part of packing by itself, in microseconds a sample: the least of the rounds."""
    source = parse_source({"source": "tars", "tars": str(tars)}, "index.train")
    listing = source.listing("index.train")
    entries = source.plan(listing).entries
    images = [one.image_data for one in source.load_in_order(entries) if isinstance(one, LoadedSample)]
    files = [image for image in images if isinstance(image, bytes)]
    params = PackParams(mode="reference")
    parts: dict[str, Callable[[], object]] = {
        "members of the tars, as a table of samples": lambda: source.plan(listing),
        "names of the shards": lambda: plan_jobs(Path(), source, entries, params, 0),
        "reading images and texts, captions": lambda: sum(1 for _ in source.load_in_order(entries)),
        "structure of the images": lambda: [intact_format(image) for image in files],
        "CRC-32 of the images": lambda: [zlib.crc32(image) for image in files],
        "SHA-256 of the images (copy only)": lambda: [hashlib.sha256(image).digest() for image in files],
    }
    for name, work in parts.items():
        least = min(_processor_seconds_of(work) for _ in range(rounds))
        print(f"  {name}: {least / len(entries) * 1e6:.1f} us")


def _processor_seconds_of(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _round(folder: Path, tars: Path, files: list[Path], options: argparse.Namespace) -> dict[str, Seconds]:
    def run(mode: Mode) -> None:
        layout, source = Layout(folder / mode), parse_source({"source": "tars", "tars": str(tars)}, "index.train")
        index("train", source, layout)
        pack("train", source, PackParams(mode=mode, shard_rows=1000), layout, Runtime(workers=options.workers))

    found: dict[str, Seconds] = {}
    for mode in MODES:
        shutil.rmtree(folder / mode, ignore_errors=True)
        found[mode] = _timed(lambda mode=mode: run(mode), files, options)  # type: ignore[misc]
    found["bare"] = _timed(lambda: read_and_hash(files), files, options)
    return found


def _timed(work: Callable[[], object], files: list[Path], options: argparse.Namespace) -> Seconds:
    os.sync()  # what the last one wrote is not this one's work
    if options.cold:
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    wall, processor = time.perf_counter(), _processor_seconds()
    work()
    return Seconds(time.perf_counter() - wall, _processor_seconds() - processor)


def _processor_seconds() -> float:
    used = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def read_and_hash(files: list[Path]) -> list[int]:
    """Return the CRC-32 of each file, read in blocks into one buffer."""
    found, buffer = [], memoryview(bytearray(BLOCK_BYTES))
    for path in files:
        checksum = 0
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                checksum = zlib.crc32(buffer[:size], checksum)
        found.append(checksum)
    return found


def _disk(folder: Path) -> int:
    """Return the bytes below a folder, a file with two names counted once."""
    found = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in (p.stat() for p in folder.rglob("*") if p.is_file())}
    return sum(found.values())


def compare(folder: Path) -> int:
    """Return how many samples both hold; raises ValueError where two differ."""
    copy, referred = (open_packed(Layout(folder / mode).packed("train")) for mode in MODES)
    count = 0
    for number in range(len(copy.shards)):
        for one, other in zip(copy.read(number), referred.read(number), strict=True):
            if one != other:
                raise ValueError(f"{one.key}: the two modes give different samples")
            count += 1
    return count


def draw_tars(folder: Path, photos: int, shorter: int = 256) -> Path:
    """Write tars of 1,000 photos as img2dataset does, with .json and .txt."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = [_photo(rng, shorter) for _ in range(DISTINCT)]
    for tar in range(-(-photos // 1000)):
        with tarfile.open(folder / f"{tar:05d}.tar", "w") as file:
            for number in range(min(1000, photos - tar * 1000)):
                key = f"{tar:05d}{number:04d}"
                caption = f"a photo of something, the {number}th of tar {tar}, with a caption of the usual length"
                about = json.dumps({"caption": caption, "url": f"https://example.org/{key}.jpg", "key": key})
                members = (("jpg", images[number % DISTINCT]), ("json", about.encode()), ("txt", caption.encode()))
                for extension, data in members:
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size, info.mtime = len(data), WRITTEN
                    file.addfile(info, io.BytesIO(data))
    return folder


def _photo(rng: np.random.Generator, shorter: int) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    smooth = np.asarray(coarse.resize((shorter * 4 // 3, shorter), Image.Resampling.BICUBIC), np.float32)
    pixels = (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=Path, help="a folder of WebDataset tars, instead of drawn photos")
    parser.add_argument("--photos", type=int, default=12_000, help="how many photos the drawn tars hold")
    parser.add_argument("--shorter", type=int, default=256, help="their shorter side")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    parser.add_argument("--parts", action="store_true", help="time each part by itself, instead of the two modes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work: the disk that is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
