"""Import timm and open_clip without torch's compiler, which takes a third of a stage's start.

torchvision 0.29.2 imports `torch._dynamo.utils` of torch 2.15.0 in `ops.roi_align`, for one function that pools boxes.
`import pipeline.distill` takes 3.5 seconds of CPU time with the compiler and 2.4 without it, in every process that
builds a student or a teacher. When torchvision imports it lazily, this module is no longer needed. The environment
variable `WCLIP_KD_EAGER_DYNAMO=1` switches it off.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import ModuleType
from typing import Any

EAGER = "WCLIP_KD_EAGER_DYNAMO"
"""Environment variable that restores torchvision's own import of the compiler."""
_NAMES = ("torch._dynamo", "torch._dynamo.utils")


class _LazyModule(ModuleType):
    """A placeholder module that imports the real one on first use of an unknown attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # attributes that the import system reads
            raise AttributeError(name)
        _remove_stubs()
        return getattr(importlib.import_module(self.__name__), name)

    def disable(self, function: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> Any:
        """Apply the compiler's `disable` to a function at its first call; it cannot be compiled before."""
        if function is None:
            return lambda chosen: self.disable(chosen, *arguments, **options)

        @cache
        def disabled() -> Callable[..., Any]:
            _remove_stubs()
            wrapped: Callable[..., Any] = importlib.import_module(_NAMES[0]).disable(function, *arguments, **options)
            return wrapped

        @wraps(function)
        def later(*args: Any, **kwargs: Any) -> Any:
            return disabled()(*args, **kwargs)

        return later

    def is_compile_supported(self, device_type: object) -> bool:
        """Forward to the compiler."""
        _remove_stubs()
        return bool(importlib.import_module(_NAMES[1]).is_compile_supported(device_type))


@contextmanager
def defer_torch_dynamo() -> Iterator[None]:
    """Import torchvision, through timm or open_clip, without the compiler.

    Inside the block `torch._dynamo` and `torch._dynamo.utils` are placeholders that import the real modules on first
    use. They are removed after the block: `torch.compile` and the optimizers import the compiler as usual.
    """
    torch = importlib.import_module("torch")
    if _NAMES[0] in sys.modules or os.environ.get(EAGER):
        yield
        return
    package = _LazyModule(_NAMES[0])
    package.__path__ = list(torch.__path__)  # marks it as a package
    sys.modules.update({_NAMES[0]: package, _NAMES[1]: _LazyModule(_NAMES[1])})
    try:
        yield
    finally:
        _remove_stubs()


def _remove_stubs() -> None:
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _LazyModule):
            del sys.modules[name]
