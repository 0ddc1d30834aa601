from __future__ import annotations

import pytest
import torch

from pipeline.project import device
from pipeline.project.device import emulated_precision_warning, has_native_precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_emulated_precision_is_said_to_be_slow(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_native_precision", lambda _: False)
    cpu = torch.device("cpu")
    assert f"no {precision} instructions" in str(emulated_precision_warning(cpu, precision))
    # Negative controls: single precision, a GPU, and a processor that has the instructions.
    assert emulated_precision_warning(cpu, "fp32") is None
    assert emulated_precision_warning(torch.device("cuda"), precision) is None
    monkeypatch.setattr(device, "has_native_precision", lambda _: True)
    assert emulated_precision_warning(cpu, precision) is None


def test_the_processor_answers_for_itself() -> None:
    # AVX2 alone has no bfloat16: where torch says so, there is nothing native.
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        assert not has_native_precision("bf16")
    assert isinstance(has_native_precision("fp16"), bool)
