from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

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


COUNT_FAULTS = """
import resource, sys, torch
from pipeline.project.device import choose_device

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if "keep" in sys.argv:
    choose_device("cpu")
torch.set_num_threads(1)
layers = [torch.nn.Conv2d(channels, 32, 1) for channels in (3, 32, 32)]
network, images = torch.nn.Sequential(*layers), torch.zeros(64, 3, 96, 96)
with torch.inference_mode():
    for step in range(12):
        if step == 8:
            before = faults()
        network(images)  # each activation is 72 MiB: 18,432 pages of 4 KiB, or 36 of 2 MiB
print(faults() - before)
"""


def count_faults(*arguments: str, **environment: str) -> int:
    """Return the page faults of four forward passes in a fresh process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", COUNT_FAULTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=inherited | environment)
    return int(done.stdout)


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_batch_writes_into_the_memory_of_the_batch_before_it() -> None:
    assert count_faults("keep") < 36
    # Negative controls: a process that did not choose a device, and a user who chose the allocator's behavior.
    assert count_faults() >= 4 * 36
    assert count_faults("keep", MALLOC_TRIM_THRESHOLD_="131072") >= 4 * 36


def test_another_c_library_keeps_its_own_behavior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("mallopt was looked up"))
    assert device.keep_freed_memory() is False
