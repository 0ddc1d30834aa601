"""The SLURM example of docs/cluster.md gives the job script that it describes."""

from __future__ import annotations

import re
import shlex
from typing import Any

from tests import ROOT


def test_the_job_script_of_the_slurm_example_starts_one_worker_with_a_gpu_in_the_projects_folder(capsys: Any) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    values: dict[str, Any] = {}
    exec(block, values)  # noqa: S102  our own page
    cluster = values["cluster"]
    try:
        lines = capsys.readouterr().out.splitlines()
        address = cluster.scheduler_address
    finally:
        cluster.close()
    assert {"#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "#SBATCH -t 04:00:00", "#SBATCH --cpus-per-task=1"} <= set(lines)
    (start,) = (line for line in lines if "dask_worker" in line)
    # In the folder from which paths count, and after the number of threads was set.
    assert lines.index("cd $HOME/wclip-kd") < lines.index("export OMP_NUM_THREADS=1") < lines.index(start)
    words = shlex.split(start)
    assert words[words.index("--nthreads") + 1] == "1"
    assert address in words
    assert address.startswith("tcp://")
    assert "Slurm" in type(cluster).__name__ or "SLURM" in type(cluster).__name__
