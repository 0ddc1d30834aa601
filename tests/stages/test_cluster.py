"""Dask workers with folders of their own: what they make is what one process makes, and some are refused."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from pipeline.data.packing.cluster_tasks import PackContext, pack_task
from pipeline.data.packing.packed import open_packed
from pipeline.data.packing.worker import PackJob
from pipeline.data.sources.registry import parse_source
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.cluster import WorkerEnvironment
from pipeline.project.errors import PipelineError, UsageError, WorkerMismatchError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.remote.paths import RemotePath
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from tests import ROOT
from tests.data.sources.test_sources import coco
from tests.factories.dask_workers import DaskWorker, dask_scheduler, wait_until
from tests.factories.object_storage import BUCKET, S3Server
from tests.stages.test_embed import files

SHARDS, SHARD_ROWS = 8, 4
EMBED = EmbedParams(teacher=TeacherParams(model="local-dir:teacher"))
NEXT_MONTH = "import time\nnow = time.time\ntime.time = lambda: now() + 30 * 86400\n"
STUCK = """
import time
from pathlib import Path
from pipeline.teacher.model import Teacher

def stuck(self, pixels):
    Path("stuck").touch()
    time.sleep(3600)

Teacher.forward_images = stuck
"""
"""The worker's teacher never answers: its task is in its hands until it is killed."""


@pytest.fixture
def machine(tmp_path: Path, tiny_teacher: str, one_thread: None) -> Callable[[str], Path]:
    """Return a builder of project folders in which nothing is but a teacher."""

    def build(name: str) -> Path:
        shutil.copytree(tiny_teacher.removeprefix("local-dir:"), tmp_path / name / "teacher")
        return tmp_path / name

    return build


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let this process compute with as many threads as a worker: bytes are promised for equal numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def runtime(address: str | None = None, prefix: str | None = None) -> Runtime:
    remote = RemotePath(f"s3://{BUCKET}/{prefix}") if prefix else None
    return Runtime(device="cpu", workers=0, batch=4, scheduler=address, remote=remote)


@pytest.mark.process
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_with_folders_of_their_own_make_the_bytes_of_one_process_though_one_is_killed_and_one_has_another_clock(
    count: int, s3: S3Server, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, folders = machine("driver"), [machine(f"worker-{number}") for number in range(count)]
    monkeypatch.chdir(driver)
    pack_sample(Layout())
    embed("train", EMBED, Layout(), runtime())
    alone = published(moments(MomentsParams(), Layout(), runtime()).parent)
    shutil.rmtree("data")
    monkeypatch.setattr(Teacher, "forward_images", refuse_to_compute)
    with dask_scheduler() as address, ExitStack() as stack, Client(address, set_as_default=False) as client:
        workers = [DaskWorker(address, folders[0], preload=STUCK), DaskWorker(address, folders[1], site=NEXT_MONTH)]
        workers += [DaskWorker(address, folder) for folder in folders[2:]]
        for worker in workers:
            stack.callback(worker.close)
        client.wait_for_workers(count, timeout=120)
        there = runtime(address, f"cluster-{count}")
        pack_sample(Layout(), there)
        driving = stack.enter_context(ThreadPoolExecutor(1))
        made = driving.submit(embed, "train", EMBED, Layout(), there)
        killed = workers[0]
        wait_until(lambda: (killed.folder / "stuck").exists() or made.done(), "a task on the worker that is stuck")
        if made.done():  # too early: say why
            made.result()
        # Negative control: the worker did hold tasks, which nobody else had, when it was killed.
        held = [key for name, keys in client.processing().items() for key in keys if name == address_of(client, killed)]
        assert held
        killed.kill()
        made.result(timeout=300)
        moments(MomentsParams(), Layout(), there)
    assert published(driver / "data") == alone
    assert sum(len(shards(worker, "pack-*/*.tar")) for worker in workers) == SHARDS  # each made once
    assert sum(len(shards(worker, "embed-*/shard-*.h5")) for worker in workers) >= 2 * SHARDS  # moments fetches some
    assert not shards(killed, "embed-*/shard-*.h5")


def pack_sample(layout: Layout, where: Runtime | None = None, images: int = SHARDS * SHARD_ROWS) -> None:
    source = parse_source({"source": "sample", "part": "train", "images": images}, "index.train")
    index("train", source, layout)
    pack("train", source, PackParams(shard_rows=SHARD_ROWS), layout, where or runtime())


def shards(worker: DaskWorker, pattern: str) -> list[Path]:
    return list((worker.folder / "data/.store").glob(pattern))


def published(folder: Path) -> dict[str, str]:
    """Return the hashes of what stands below a folder, but for the store and its locks."""
    return {name: digest for name, digest in files(folder).items() if not name.startswith(".store")}


def refuse_to_compute(self: Teacher, pixels: np.ndarray) -> torch.Tensor:
    raise AssertionError("the driver embedded")


def address_of(client: Client, worker: DaskWorker) -> str:
    found = client.scheduler_info()["workers"]
    return next(address for address, facts in found.items() if facts["name"] == worker.name)


@pytest.mark.process
def test_a_worker_with_other_data_or_another_teacher_is_refused_by_its_name(
    s3: S3Server, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver, folder = machine("driver"), machine("odd-one")
    monkeypatch.chdir(driver)
    pack_sample(Layout())
    weights, packed = folder / "teacher" / "open_clip_model.safetensors", folder / "data/packed/train"
    with dask_scheduler() as address, ExitStack() as stack:

        def refusal() -> str:
            with pytest.raises(WorkerMismatchError) as refused:
                embed("train", EMBED, Layout(), runtime(address, "refused"))
            assert "\n" not in str(refused.value)
            assert str(refused.value).startswith("worker odd-one on ")
            return str(refused.value)

        stack.callback(DaskWorker(address, folder).close)
        assert "no packed split, expected" in refusal()
        pack_sample(Layout(folder), images=5)
        digests = [packed_digest(path) for path in (packed, Path("data/packed/train"))]
        assert f"{digests[0]}, expected {digests[1]} as at the driver" in refusal()
        shutil.rmtree(packed)
        shutil.copytree("data/packed/train", packed)
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        assert "teacher's weights_sha256" in (message := refusal())
        assert message.count(", expected ") == 1


@pytest.mark.slow
def test_a_worker_with_other_code_or_another_library_is_refused_by_its_name(
    s3: S3Server, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver, folder, other = machine("driver"), machine("odd-one"), tmp_path / "other-code"
    monkeypatch.chdir(driver)
    pack_sample(Layout())
    for package in ("cache", "pipeline"):
        shutil.copytree(ROOT / package, other / package)
    with (other / "pipeline/teacher/shards.py").open("a") as file:
        file.write("\nOTHER = 1\n")
    described = tmp_path / "other-numpy" / "numpy-0.1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    cases: tuple[tuple[Path, Path | None, str], ...] = (
        (other, None, "code of embed"),
        (ROOT, described.parent, f"numpy 0.1, expected {np.__version__} as at the driver"),
    )
    for source, path, message in cases:
        with (
            dask_scheduler() as address,
            closing(DaskWorker(address, folder, source=source, path=path)),
            pytest.raises(WorkerMismatchError, match=rf"^worker odd-one on .*{message}"),
        ):
            embed("train", EMBED, Layout(), runtime(address, "refused"))


def packed_digest(folder: Path) -> str:
    return open_packed(folder).digest


def test_a_scheduler_that_does_not_answer_and_an_address_that_is_none_are_named(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.project.cluster.CONNECT_SECONDS", 0.5)
    monkeypatch.chdir(machine("driver"))
    pack_sample(Layout())
    with pytest.raises(PipelineError, match=r"runtime.scheduler': tcp://127.0.0.1:9: no Dask scheduler answers"):
        embed("train", EMBED, Layout(), runtime("tcp://127.0.0.1:9"))
    assert not [each for each in gc.get_objects() if type(each) is Client]  # a half-open one could block the next
    with pytest.raises(UsageError, match="expected tcp://host:8786"):
        embed("train", EMBED, Layout(), runtime("nothing://there"))


def test_a_worker_that_does_not_see_the_drivers_folders_is_refused_without_object_storage(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine("driver"))
    pack_sample(Layout())
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        monkeypatch.setattr(Path, "is_dir", lambda path: path.name != "train")
        with pytest.raises(WorkerMismatchError, match=r"does not see .*data/packed/train of the driver. Mount"):
            embed("train", EMBED, Layout(), runtime(cluster.scheduler_address))


def test_workers_that_see_the_drivers_folders_pack_the_same_bytes_and_name_themselves_where_a_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = coco(Path("set"), {f"{number:02d}.png": [f"caption {number}"] for number in range(10)})
    source, layouts = parse_source(value, "index.train"), [Layout(Path(name)) for name in ("one", "cluster", "again")]
    for layout in layouts:
        index("train", source, layout)
    alone = files(pack("train", source, PackParams(shard_rows=4), layouts[0], runtime()))
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        there = runtime(cluster.scheduler_address)
        for mode in ("copy", "reference"):
            params = PackParams.model_validate({"shard_rows": 4, "mode": mode})
            made = files(pack("train", source, params, layouts[1], there))
            assert made == (alone if mode == "copy" else files(pack("train", source, params, layouts[0], runtime())))
        next(Path("set").rglob("05.png")).unlink()
        with pytest.raises(PipelineError, match=r"^worker \d on \S+: .*05\.png: gone since it was listed"):
            pack("train", source, PackParams(shard_rows=4), layouts[2], there)
    # A worker that was started elsewhere would look for the images elsewhere.
    job = PackJob(tmp_path / "shard.tar", source, (), PackParams().encoding, 0)
    context = PackContext(layouts[2], tmp_path, WorkerEnvironment.current(("pack",), ()), None)
    pack_task(context, job)
    with pytest.raises(WorkerMismatchError, match=rf"working directory {tmp_path}, expected {tmp_path}/other as at"):
        pack_task(replace(context, directory=tmp_path / "other"), job)


def test_shards_of_references_are_refused_on_workers_that_share_no_file_system(tmp_path: Path) -> None:
    source = parse_source(coco(tmp_path / "set", {"0.png": ["caption"]}), "index.train")
    index("train", source, Layout(tmp_path))
    params = PackParams.model_validate({"mode": "reference"})
    with pytest.raises(UsageError, match="refers to files of one file system"):
        pack("train", source, params, Layout(tmp_path), runtime("tcp://127.0.0.1:9", "references"))
