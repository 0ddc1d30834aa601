"""Two processes that train one student are one process that trains it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.project.errors import UsageError
from pipeline.students.training.distributed import SINGLE_PROCESS, DistributedContext
from tests import ROOT
from tests.factories.students import made_student

pytestmark = pytest.mark.process

PROGRAM = """
import sys
import torch
from pathlib import Path
from safetensors.torch import save_file
from pipeline.students.training.distributed import distributed_context
from tests.factories.students import TEXT, made_feed, made_student, trained
loss = {"fd": 1, "mfd": 0.5, "gram": 0.5, "icl": 0.1, "crd": 0.1, "gd": 0.01, "afd": 0.1, "bank_size": 8}
loss["mask_patch"] = 4
torch.use_deterministic_algorithms(True)
with distributed_context(torch.device("cpu")) as ranks:
    reads = sys.argv[2] == "reads"
    feed = made_feed(captions=2, bank_size=8, ranks=ranks, tokens=reads)
    student = made_student("test_nfnet", learning_rate=1e-4, text=TEXT if reads else None)
    loss |= {"infonce": 0.1} if reads else {}
    student, _ = trained(Path(sys.argv[1]), feed=feed, student=student, loss=loss, optimizer="sgd", num_validations=1)
    if ranks.is_main:
        save_file({name: t.contiguous() for name, t in student.state_dict().items()}, sys.argv[1] + ".done")
"""


def run(folder: Path, world: int, kind: str) -> dict[str, torch.Tensor]:
    done = folder / f"{world}.done"
    launch = [
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={world}",
        "--master-port=0",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    (folder / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-W",
        "error::FutureWarning",
        *(launch if world > 1 else []),
        "program.py",
        str(folder / str(world)),
        kind,
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error::FutureWarning",
        "PYTHONPATH": str(ROOT),
    }
    made = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return load_file(done)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["looks", "reads"])
def test_two_processes_equal_one_at_the_same_batch_with_all_losses(tmp_path: Path, kind: str) -> None:
    """For a student without norms over the batch, whose parts could not be told apart from the whole."""
    one, two = run(tmp_path, 1, kind), run(tmp_path, 2, kind)
    assert one.keys() == two.keys()
    for name, weights in one.items():
        # Sums of float32 in another order: 1e-4 of the largest weight after six steps.
        torch.testing.assert_close(weights, two[name], rtol=0, atol=1e-4 * float(weights.abs().max()) + 1e-7)


@pytest.mark.parametrize(("world", "count"), [(1, 7), (2, 8), (3, 9)])
def test_shares_are_all_of_the_batch_and_never_overlap(world: int, count: int) -> None:
    rows = np.arange(count)
    assert np.array_equal(
        np.concatenate([rows[DistributedContext(rank, world).local_slice(count)] for rank in range(world)]), rows
    )


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    SINGLE_PROCESS.check(7, 3)
    DistributedContext(0, 2).check(8, 1)
    for batch, parts in ((7, 1), (8, 2)):
        with pytest.raises(UsageError, match=f"2 processes cannot share a batch of {batch} in {parts} parts"):
            DistributedContext(0, 2).check(batch, parts)


def test_alone_nothing_is_gathered_wrapped_or_asked() -> None:
    rows, module = torch.ones(3, 2), torch.nn.Linear(2, 2)
    assert SINGLE_PROCESS.all_gather(rows) is rows
    assert SINGLE_PROCESS.wrap_ddp(module) is module
    assert SINGLE_PROCESS.broadcast(True, torch.device("cpu"))


def test_norms_over_the_batch_are_synchronised_on_gpus_and_the_card_says_what_they_saw() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    said = {}
    for name, ranks, device in (
        ("alone", SINGLE_PROCESS, gpu),
        ("cpu", DistributedContext(0, 2), cpu),
        ("gpu", DistributedContext(0, 2), gpu),
    ):
        before = made_student()
        names = list(before.backbone.state_dict())
        backbone, said[name] = ranks.convert_batchnorm(before.backbone, device)
        kinds = {
            type(module) for module in backbone.modules() if isinstance(module, torch.nn.modules.batchnorm._NormBase)
        }
        assert any("Sync" in kind.__name__ for kind in kinds) == (name == "gpu")
        assert list(backbone.state_dict()) == names  # so what is saved is read back by a student that was never shared
    assert said == {
        "alone": "over the batch",
        "cpu": "over each process's share of the batch",
        "gpu": "over the batch of all processes",
    }
    assert (
        DistributedContext(0, 2).convert_batchnorm(made_student("test_nfnet").backbone, gpu)[1] == "none over the batch"
    )
