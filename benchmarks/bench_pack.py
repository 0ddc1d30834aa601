"""Compare `pack` with a bare loop over the same bytes.

    python benchmarks/bench_pack.py                       # photos of COCO's size, drawn for the purpose
    python benchmarks/bench_pack.py --images DIR          # every file of a folder of your own
    python benchmarks/bench_pack.py --tars DIR            # WebDataset tars, against a bare copy of them

`through`: files pass through byte for byte. Bare is: read each file, append it to one file a shard, fsync. Ours also
checks each image, writes its captions, two tar headers, and hashes what it writes.
`resize`: shorter side 256, quality 92. Bare is: read, decode, resize, encode, append, fsync, by the same Pillow calls.

Both run in two spawned processes, in turn; a ratio is bare seconds over ours within a round (1 is as fast), and the
median over the rounds is printed. CPU seconds are those of the processes and their children: on a busy machine they are
the steadier figure.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import processor
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime

WORKERS = 2
CORES = len(os.sched_getaffinity(0))
Figures = tuple[float, float]


def main() -> None:
    """Measure and print."""
    options = _options()
    print(f"{processor()}, {CORES} cores, Python {platform.python_version()}, Pillow {PIL.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-pack-", dir=options.folder) as name:
        folder = Path(name)
        if options.tars:
            source = {"source": "tars", "tars": str(options.tars)}
            compare(folder, "through", sorted(options.tars.glob("*.tar")), source, options)
            return
        images = options.images or draw_photos(folder / "images", options.photos)
        files = sorted(path for path in images.iterdir() if path.is_file())
        source = captioned(folder, images, files)
        for how in options.how:
            compare(folder, how, files, source, options)


def compare(folder: Path, how: str, files: list[Path], source: dict[str, str], options: argparse.Namespace) -> None:
    """Print the median ratios of one way to pack."""
    size, rounds = sum(path.stat().st_size for path in files), options.rounds
    found = []
    for _ in range(rounds + 1):
        if options.cold:
            forget(files)
        bare = _timed(lambda: run_bare(folder / "bare", files, how, options.shard_rows))
        if options.cold:
            forget(files)
        ours = _timed(lambda: run_ours(folder / "ours", source, how, options.shard_rows))
        found.append((bare, ours))
        for each in ("bare", "ours"):
            shutil.rmtree(folder / each)
    measured = found[1:]  # the first round warms up
    wall, cpu = (np.median([bare[at] / ours[at] for bare, ours in measured]) for at in (0, 1))
    seconds = [np.median([pair[which][0] for pair in measured]) for which in (0, 1)]
    label = f"{how}, from the disk" if options.cold else how
    ratios = [bare[0] / ours[0] for bare, ours in measured]
    print(
        f"{label}: {len(files)} files, {size / len(files) / 1000:.1f} kB each; bare {seconds[0]:.2f} s, ours "
        f"{seconds[1]:.2f} s; ratio {wall:.2f} (CPU {cpu:.2f}), median of {rounds}, {min(ratios):.2f} to "
        f"{max(ratios):.2f}",
        flush=True,
    )


def forget(files: list[Path]) -> None:
    """Drop files from the page cache, because most data sets are packed once, from disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_ours(root: Path, source: dict[str, str], how: str, rows: int) -> None:
    """Index and pack into an empty project."""
    layout, where = Layout(root), parse_source(source, "index.train")
    index("train", where, layout)
    params = PackParams(shard_rows=rows, resize=256 if how == "resize" else None)
    pack("train", where, params, layout, Runtime(workers=WORKERS))


def run_bare(root: Path, files: list[Path], how: str, rows: int) -> None:
    """Do only the necessary work on the bytes."""
    root.mkdir()
    rows = rows if files[0].suffix != ".tar" else 1
    jobs = [(root / f"{at}.bin", files[at : at + rows], how) for at in range(0, len(files), rows)]
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_bare_shard, jobs))


def _bare_shard(job: tuple[Path, list[Path], str]) -> None:
    target, files, how = job
    with target.open("wb") as out:
        for path in files:
            data = path.read_bytes()
            out.write(_bare_resize(data) if how == "resize" else data)
        out.flush()
        os.fsync(out.fileno())


def _bare_resize(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (512, 512))
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    buffer = io.BytesIO()
    smaller = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    smaller.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def draw_photos(folder: Path, count: int) -> Path:
    """Write synthetic photos of COCO's usual size, 640 x 480 and about 160 kB: smooth shapes with noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (480 + 64, 640 + 64, 3)).astype(np.float32)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        smooth = coarse.resize((640, 480), Image.Resampling.BICUBIC)
        top, left = rng.integers(0, 64, 2)
        pixels = np.asarray(smooth, np.float32) + noise[top : top + 480, left : left + 640]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:012d}.jpg", quality=92)
    return folder


def captioned(folder: Path, images: Path, files: list[Path]) -> dict[str, str]:
    """Write COCO's captions for some images, five each, and return them as a source."""
    listed = [{"id": number, "file_name": path.name} for number, path in enumerate(files)]
    said = "a photo of something that stands for the captions that people write about a photo"
    annotations = [{"image_id": number, "caption": f"{said}, {n}"} for number in range(len(files)) for n in range(5)]
    captions = folder / "captions.json"
    captions.write_text(json.dumps({"images": listed, "annotations": annotations}))
    return {"source": "coco", "images": str(images), "captions": str(captions)}


def _timed(run: Callable[[], None]) -> Figures:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    run()
    return time.perf_counter() - wall, sum(os.times()[:4]) - cpu


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of images, instead of drawn photos")
    parser.add_argument("--tars", type=Path, help="a folder of WebDataset tars, instead of images")
    parser.add_argument("--photos", type=int, default=3000, help="how many photos are drawn")
    parser.add_argument("--how", nargs="+", default=["through", "resize"], choices=["through", "resize"])
    parser.add_argument("--shard-rows", type=int, default=500)
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work: the disk that is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
