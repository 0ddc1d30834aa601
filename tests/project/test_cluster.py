"""What a worker of a cluster must have in common with its driver, without a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.project.cluster import WorkerEnvironment
from pipeline.project.errors import WorkerMismatchError


def test_a_worker_of_the_same_environment_is_accepted_and_each_difference_is_named_with_both_values() -> None:
    here = WorkerEnvironment.current(("embed", "moments"), ("numpy", "torch"))
    here.require_here()
    python = replace(here, python="3.0.0")
    code = replace(here, code=(here.code[0], ("moments", "000000000000")))
    library = replace(here, libraries=(*here.libraries[:1], ("torch", "0.1")))
    for expected, message in (
        (python, f"python {here.python}, expected 3.0.0 as at the driver"),
        (code, f"code of moments {here.code[1][1]}, expected 000000000000 as at the driver"),
        (library, f"torch {here.libraries[1][1]}, expected 0.1 as at the driver"),
    ):
        with pytest.raises(WorkerMismatchError) as refused:
            expected.require_here()
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
