"""torchvision's importers leave torch's compiler where it is, until somebody wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

STANDING = "; ".join(
    [
        "import sys",
        "from pipeline.project.lazy_dynamo import defer_torch_dynamo",
        "found = lambda: 'torch._dynamo.eval_frame' in sys.modules",
    ]
)


def said(*lines: str) -> list[str]:
    code = "\n".join([STANDING, *lines])
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.split()


def test_students_and_teachers_are_imported_without_the_compiler() -> None:
    lines = ["import pipeline.students.model", "from pipeline.teacher.params import import_open_clip"]
    assert said(*lines, "import_open_clip()", "print(found(), 'torchvision' in sys.modules)") == ["False", "True"]


def test_what_was_imported_so_can_still_be_compiled_trained_and_pooled() -> None:
    lines = ["with defer_torch_dynamo(): import timm, torchvision", "print(found())", "import torch"]
    compiled = "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item(), found())"
    pooled = "print(torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0., 0, 4, 4]])], 1).item())"
    step = "p = torch.nn.Parameter(torch.ones(1)); torch.optim.AdamW([p], fused=True).step(); print('stepped')"
    supported = "from torchvision.ops import roi_align as _; m = sys.modules['torchvision.ops.roi_align']"
    real = "from torch._dynamo.utils import is_compile_supported as real"
    same = "print(m.is_compile_supported('cpu') == real('cpu'))"
    found = said(*lines, compiled, pooled, step, supported, real, same)
    assert found == ["False", "2.0", "True", "1.0", "stepped", "True"]


def test_a_function_kept_from_the_compiler_is_kept_from_it_later() -> None:
    lines = [
        "with defer_torch_dynamo():",
        "    import torch.compiler",
        "    kept = torch.compiler.disable(lambda x: torch.compiler.is_compiling(), recursive=True)",
        "print(found(), kept(1))",
        "import torch",
        "print(found(), torch.compile(kept, backend='eager')(torch.ones(1)))",
    ]
    assert said(*lines) == ["False", "False", "True", "False"]


def test_any_other_question_brings_the_compiler_and_nothing_of_the_stand_in_is_left() -> None:
    lines = [
        "with defer_torch_dynamo():",
        "    inside = sys.modules['torch._dynamo']",
        "    print('torch._dynamo.utils' in sys.modules, inside.config.verbose)",
        "import torch._dynamo, torch._dynamo.utils",
        "print(found(), torch._dynamo is inside, hasattr(torch._dynamo.utils, '__file__'))",
    ]
    assert said(*lines) == ["True", "False", "True", "False", "True"]


def test_an_environment_variable_leaves_the_compiler_where_torchvision_wants_it() -> None:
    lines = ["import os", "os.environ['WCLIP_KD_EAGER_DYNAMO'] = '1'", "with defer_torch_dynamo(): import torchvision"]
    assert said(*lines, "print(found())") == ["True"]
