"""Compare the speed of `distill` and `embed` with open_clip and clip-retrieval, on the same JPEGs.

    pip install --no-deps --target DIR clip-retrieval pandas python-dateutil six    # its pins exclude today's numpy
    python benchmarks/bench_peers.py open_clip --installed DIR                      # its training, with distillation
    python benchmarks/bench_peers.py clip-retrieval --installed DIR                 # its inference, images alone

`open_clip` runs open_clip_train's own epoch, data loader, transforms and loss: a student of mobilenetv3 and a text
tower of 4 layers of width 128, contrasted with itself and with ViT-B-32 in the loop (`--distill-model`). Ours learns
the same two losses (`infonce`, `crd`) from four cached crops of the same photos. All weights are random, which no speed
depends on. `clip-retrieval` embeds images by ViT-B-32; its reader, mapper and writer run, without its logger. It writes
half precision; we write single precision, hashed and synced. Medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shutil
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bench_distill import DIM, _prepare, build_run
from benchmarks.bench_embed import _embed
from benchmarks.made_photos import WORDS, photo, write_photos
from benchmarks.rounds import options_of, processor, seconds, spread
from pipeline.project.layout import Layout
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import LossParams
from pipeline.students.text_tower import TextParams
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams

TEACHER = "ViT-B-32"
TEXT = TextParams(layers=4, width=128, context=77)
Arm = Callable[[], object]


def main() -> None:
    """Measure one peer and print the ratio."""
    options = _options()
    torch.set_num_threads(options.threads)
    sys.path.append(str(options.installed))
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, open_clip {open_clip.__version__}"
    print(f"{processor()}; {versions}; {vars(options)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        arms = {"open_clip": in_the_loop, "clip-retrieval": inference}[options.peer](options, Path(folder))
        found = [{name: seconds(arm) for name, arm in arms.items()} for _ in range(options.rounds + 1)][1:]
    ours, theirs = arms
    for name in arms:
        print(f"{name}: {1000 * statistics.median(r[name] for r in found) / options.images:.2f} ms an image")
    ratios = [r[theirs] / r[ours] for r in found]
    print(f"{theirs} / {ours}: {spread(ratios)}")


def in_the_loop(options: argparse.Namespace, folder: Path) -> dict[str, Arm]:
    """Return an epoch of `distill`, and one of open_clip with its teacher in the loop."""
    targets, pixels, files = _prepare(folder, options)
    captions, loss = _captions(len(files)), LossParams(infonce=1.0, crd=1.0)
    targets = _with_captions(targets, captions)
    run = build_run("mobilenetv3", targets, pixels, options.batch, options.size, text=TEXT, loss=loss)
    feed, train = run.feed, run.step()

    def ours() -> None:
        for batch in feed.stream(0, feed.epoch_steps):
            train(batch)

    return {"distill": ours, "open_clip": _open_clip_epoch(options, folder, files, captions)}


def _with_captions(targets: Targets, captions: Sequence[str]) -> Targets:
    tokens = open_clip.get_tokenizer(TEACHER)(list(captions)).numpy().astype(np.int32)
    text = np.random.default_rng(1).standard_normal((len(captions), DIM)).astype(np.float32)
    return replace(targets, text=text, offsets=np.arange(len(captions) + 1), tokens=tokens)


def _open_clip_epoch(
    options: argparse.Namespace, folder: Path, files: Sequence[Path], captions: Sequence[str]
) -> Callable[[], None]:
    from open_clip_train.data import get_csv_dataset
    from open_clip_train.train import train_one_epoch

    logging.getLogger().setLevel(logging.WARNING)
    table = folder / "captions.csv"
    rows = ["filepath\ttitle", *(f"{file}\t{caption}" for file, caption in zip(files, captions, strict=True))]
    table.write_text("\n".join(rows), encoding="utf-8")
    student, teacher = _open_clip_student(options.size), open_clip.create_model(TEACHER, output_dict=True)
    transform = open_clip.image_transform(options.size, is_train=True)
    wanted = SimpleNamespace(
        train_data=str(table),
        csv_img_key="filepath",
        csv_caption_key="title",
        csv_separator="\t",
        distributed=False,
        batch_size=options.batch,
        workers=options.workers,
        device="cpu",
        precision="fp32",
        distill=True,
        accum_freq=1,
        skip_scheduler=True,
        grad_clip_norm=None,
        horovod=False,
        log_every_n_steps=100,
        world_size=1,
        rank=0,
        wandb=False,
    )
    data = {"train": get_csv_dataset(wanted, transform, is_train=True, tokenizer=open_clip.get_tokenizer(TEACHER))}
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    loss = open_clip.DistillClipLoss()
    return lambda: train_one_epoch(student, data, loss, 0, optimizer, None, None, teacher, wanted)


def _open_clip_student(size: int) -> nn.Module:
    vision = {
        "timm_model_name": "mobilenetv3_small_100",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "",
        "image_size": size,
    }
    text = {"context_length": 77, "vocab_size": 49408, "width": TEXT.width, "heads": TEXT.head_count, "layers": 4}
    return open_clip.CLIP(embed_dim=DIM, vision_cfg=vision, text_cfg=text, output_dict=True)


def inference(options: argparse.Namespace, folder: Path) -> dict[str, Arm]:
    """Return `embed` and clip-retrieval's inference with the same loaded teacher."""
    layout, images = Layout(folder / "ours"), folder / "images"
    write_photos(layout, options.images, (640, 480))
    images.mkdir()
    for number in range(options.images):
        (images / f"{number:06d}.jpg").write_bytes(photo(640, 480, number))
    teacher = load_teacher(TeacherParams(model=TEACHER, pretrained="random"), "cpu")
    run = _clip_retrieval(options, teacher, images, folder / "theirs")
    return {"embed": lambda: _embed(options, layout, teacher, 0), "clip-retrieval": run}


def _clip_retrieval(options: argparse.Namespace, teacher: Teacher, images: Path, out: Path) -> Callable[[], None]:
    """Build its reader, mapper and writer as its worker does, around a loaded model."""
    transform = open_clip.image_transform(teacher.identity.image_size, is_train=False)
    _stand_in("all_clip", load_clip=lambda **_: (teacher.model, transform, None))
    _stand_in("sentence_transformers", SentenceTransformer=None)
    for package in ("clip_retrieval", "clip_retrieval.clip_inference"):
        _stand_in(package, __path__=[str(options.installed / package.replace(".", "/"))])
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import FilesReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    class Silent:
        def start(self) -> None: ...
        def end(self) -> None: ...
        def __call__(self, _: object) -> None: ...

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        Runner(
            lambda sampler: FilesReader(
                sampler, transform, None, images, options.batch, options.workers, enable_text=False
            ),
            lambda: ClipMapper(True, False, False, False, TEACHER, False, ""),
            lambda part: NumpyWriter(part, str(out), False, True, False, 1),
            lambda _: Silent(),
            1,
        )(0)

    return run


def _stand_in(name: str, **members: Any) -> None:
    """Replace a module with missing imports by a placeholder: its server, its index, other models."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def _captions(count: int) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, draw.poisson(9) + 4)) for _ in range(count)]


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, size=224, views=4, images=64, batch=16)
    parser.add_argument("peer", choices=("open_clip", "clip-retrieval"))
    parser.add_argument("--installed", type=Path, required=True, help="folder with what they need beside what we do")
    return parser.parse_args()


if __name__ == "__main__":
    main()
