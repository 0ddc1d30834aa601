"""Import timm and open_clip without torch's compiler, which takes a third of a stage's start.

torchvision 0.29.2 imports `torch._dynamo.utils` of torch 2.15.0 in `ops.roi_align`, for one function that pools boxes.
`import pipeline.distill` takes 3.5 seconds of processor time with the compiler and 2.4 without it, and every process
that builds a student or a teacher would pay for it. Once torchvision imports it lazily itself, this module is not
needed any more. The environment variable `WCLIP_KD_EAGER_DYNAMO=1` switches it off.
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
"""The environment variable that lets torchvision import the compiler as it would by itself."""
_NAMES = ("torch._dynamo", "torch._dynamo.utils")


class _LazyModule(ModuleType):
    """A module that becomes the real one at the first question it cannot answer."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system itself looks for
            raise AttributeError(name)
        _remove_stubs()
        return getattr(importlib.import_module(self.__name__), name)

    def disable(self, function: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> Any:
        """Keep the compiler out of a function from its first call on: it cannot be compiled before."""
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
        """Answer as the compiler does, by asking it."""
        _remove_stubs()
        return bool(importlib.import_module(_NAMES[1]).is_compile_supported(device_type))


@contextmanager
def defer_torch_dynamo() -> Iterator[None]:
    """Let torchvision be imported, by timm or open_clip, without the compiler.

    Inside the block `torch._dynamo` and `torch._dynamo.utils` are stand-ins that become the real modules as soon as
    anything is asked of them. After the block nothing of them is left: `torch.compile` and the optimizers import the
    compiler as usual.
    """
    torch = importlib.import_module("torch")
    if _NAMES[0] in sys.modules or os.environ.get(EAGER):
        yield
        return
    package = _LazyModule(_NAMES[0])
    package.__path__ = list(torch.__path__)  # makes it a package to the import system
    sys.modules.update({_NAMES[0]: package, _NAMES[1]: _LazyModule(_NAMES[1])})
    try:
        yield
    finally:
        _remove_stubs()


def _remove_stubs() -> None:
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _LazyModule):
            del sys.modules[name]
