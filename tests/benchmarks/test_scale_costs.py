"""Hours and money of large data sets: the table of docs/scale.md is what the program computes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from benchmarks.scale_costs import (
    DATASETS,
    MACHINES,
    Assumptions,
    Dataset,
    disk_gigabytes,
    dollars,
    stage_seconds,
    table,
)
from tests import ROOT

ASSUMED = Assumptions()


def test_the_page_has_the_table_of_the_program() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in table(ASSUMED) if line not in page] == []


def test_the_teacher_of_laions_images_and_captions_on_one_gpu_by_hand() -> None:
    laion, machine = DATASETS[-1], MACHINES[0]
    flops = 400e6 * 2 * 17.6e9 * (1 + 1 / 6)
    assert stage_seconds(laion, machine, ASSUMED)["embed"] == pytest.approx(flops / (312e12 * 0.35))
    assert disk_gigabytes(laion)["embed"] == pytest.approx(400e6 * (2 * 2048 + 17 + 9 + 308 + 72) / 1e9)


@pytest.mark.parametrize("data", DATASETS, ids=lambda data: data.name)
def test_more_of_everything_is_never_slower_and_faster_gpus_never_dearer(data: Dataset) -> None:
    for one, more in itertools.pairwise(MACHINES):
        slow, fast = (stage_seconds(data, machine, ASSUMED) for machine in (one, more))
        assert all(fast[stage] <= slow[stage] for stage in slow)
    faster = replace(ASSUMED, gpu_tflops=2 * ASSUMED.gpu_tflops)
    for machine in MACHINES:
        cost = [
            dollars(sum(stage_seconds(data, machine, assumed).values()), machine, assumed)
            for assumed in (ASSUMED, faster)
        ]
        assert cost[1] <= cost[0]
