"""Run the real `embed` in children that are killed, kept out or out of space; print what came of it as JSON.

A process of its own: it loads the libraries once and forks, so that forty kills cost seconds and not minutes.

    python -m tests.contract.crash_driver kill|twice|full ROOT TEACHER [KILLS]
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from itertools import count
from pathlib import Path

import torch

from cache import atomic
from cache.atomic import TEMP_SUFFIX
from cache.errors import CacheError, LockedError, WriteError
from pipeline.data.sources.registry import parse_source
from pipeline.data.views import ViewParams
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams

RUNTIME = Runtime(workers=1, batch=3, device="cpu")
SHARDS, SHARD_ROWS = 24, 4
DONE, FAILED, HELD = 0, 1, 3
CLONE_NEWNS = 0x00020000


def start(layout: Layout, params: EmbedParams, dies_at: int = 0) -> int:
    """Run embed in a child and return its process id; it may kill itself before its n-th file gets its name."""
    if child := os.fork():
        return child
    if dies_at:
        replaced, truly = count(1), Path.replace

        def replace(path: Path, target: Path) -> Path:
            if next(replaced) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return truly(path, target)

        Path.replace = replace  # type: ignore[method-assign, assignment]  # a fault injected in this process alone
    code = FAILED
    try:
        embed("train", params, layout, RUNTIME)
        code = DONE
    except LockedError as error:
        print(error, file=sys.stderr)
        code = HELD
    except CacheError as error:
        print(error, file=sys.stderr)
    except Exception:  # noqa: BLE001  a child of a fork must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(child: int) -> int:
    """Wait for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shards(layout: Layout) -> dict[str, int]:
    """Return the finished shards in the store by their inode."""
    return {
        path.relative_to(layout.store).as_posix(): path.stat().st_ino
        for path in layout.store.rglob("shard-*.h5")
        if path.parent.name.startswith("embed")
    }


def unfinished(layout: Layout) -> list[str]:
    return [str(path) for path in layout.root.rglob(f"*{TEMP_SUFFIX}")]


def lay_out(root: Path) -> Layout:
    layout = Layout(root)
    source = parse_source({"source": "sample", "part": "train", "images": SHARDS * SHARD_ROWS}, "index.train")
    index("train", source, layout)
    pack("train", source, PackParams(shard_rows=SHARD_ROWS), layout, Runtime(workers=0))
    return layout


def forget(layout: Layout) -> None:
    """Delete embeddings and everything that the store keeps of them."""
    shutil.rmtree(layout.embeddings("train"), ignore_errors=True)
    for path in layout.store.glob("embed-*"):
        if path.is_dir():
            shutil.rmtree(path)


def kill(layout: Layout, params: EmbedParams, kills: int) -> dict[str, object]:
    """Kill embed at random moments of a whole run and resume it; whenever it ends by itself, compare and begin anew."""
    started = time.monotonic()
    codes = [finish(start(layout, params))]
    seconds = time.monotonic() - started
    whole, runs, killed, left, same = digests(layout.embeddings("train")), 0, 0, 0, True
    chance = random.Random(0)  # noqa: S311  moments, not secrets
    forget(layout)
    while killed < kills or codes[-1] != DONE:
        # Every other one dies in the middle of a write, which a random moment seldom meets.
        dies_at = chance.randint(1, SHARDS) if killed < kills and killed % 2 else 0
        child = start(layout, params, dies_at)
        if killed < kills and not dies_at:
            time.sleep(chance.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        codes.append(finish(child))
        killed += codes[-1] == -signal.SIGKILL
        left += bool(unfinished(layout))
        if codes[-1] == DONE:
            runs += 1
            same = same and digests(layout.embeddings("train")) == whole and not unfinished(layout)
            if killed < kills:
                forget(layout)
    return {
        "shards": SHARDS,
        "files": len(whole),
        "kills": killed,
        "runs": runs,
        "same": same,
        "codes": sorted(set(codes)),
        "left_unfinished": left,
        "seconds_of_a_run": round(seconds, 2),
    }


def twice(layout: Layout, params: EmbedParams, kills: int) -> dict[str, object]:
    """Start two writers at once, a few times: one works and the other is told so, or finds all done."""
    finish(start(layout, params))
    whole, codes, same = digests(layout.embeddings("train")), [], True
    for _ in range(kills):
        forget(layout)
        children = [start(layout, params) for _ in range(2)]
        codes.append(sorted(finish(child) for child in children))
        same = same and digests(layout.embeddings("train")) == whole and not unfinished(layout)
    return {"codes": codes, "same": same}


def full(layout: Layout, params: EmbedParams, kills: int) -> dict[str, object]:
    """Embed into a store on a file system that is too small, then give it room and go on."""
    finish(start(layout, params))
    whole = digests(layout.embeddings("train"))
    forget(layout)
    real = small(layout, kibibytes=900)
    code = finish(start(layout, params))
    kept, published = shards(layout), (layout.embeddings("train") / "manifest.json").exists()
    litter = unfinished(layout)
    room(layout, real)
    again = finish(start(layout, params))
    after = shards(layout)
    return {
        "real": real,
        "code": code,
        "kept": len(kept),
        "published": published,
        "litter": litter,
        "again": again,
        "kept_as_they_were": all(after[name] == inode for name, inode in kept.items()),
        "same": digests(layout.embeddings("train")) == whole and not unfinished(layout),
    }


def small(layout: Layout, kibibytes: int) -> bool:
    """Mount a small file system over the store, for this process alone; where that is not allowed, pretend."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={kibibytes}k".encode()
    place = str(layout.store).encode()
    if (
        libc.unshare(CLONE_NEWNS) == 0
        and libc.mount(b"none", b"/", None, 0x44000, None) == 0
        and libc.mount(b"tmpfs", place, b"tmpfs", 0, options) == 0
    ):
        return True
    synced, truly = [0], atomic._sync

    def refuse(path: Path) -> None:
        synced[0] += 1
        if synced[0] > 30:
            raise OSError(28, "No space left on device")
        truly(path)

    atomic._sync = refuse
    return False


def room(layout: Layout, real: bool) -> None:
    """Give the store more space."""
    if real:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"tmpfs", str(layout.store).encode(), b"tmpfs", 32, b"size=64m"):
            raise WriteError("the file system cannot be made larger")
    else:
        import importlib

        importlib.reload(atomic)


def main() -> None:
    scenario, root, teacher = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    params = EmbedParams(teacher=TeacherParams(model=teacher), views=ViewParams(crops=1))
    assert params.teacher is not None
    load_teacher(params.teacher, "cpu")  # imports everything before the first fork
    layout = lay_out(root)
    print(json.dumps(globals()[scenario](layout, params, int((sys.argv[4:] or ["0"])[0]))))


if __name__ == "__main__":
    main()
