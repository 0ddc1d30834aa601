"""Programs as forks of one process that has loaded the libraries: `python` and `dvc` start in a tenth of a second.

A folder with programs of these two names stands first on the path of a project's commands. They hand their arguments,
folder, environment and streams to the server, which forks; they end as the fork ends. A fork imports our own code from
the project's folder, as a new interpreter does. It differs in what the server has already done: libraries are loaded,
`PYTHON…` variables are read, and the seed of `hash(str)` is the server's. What a test says about any of these needs
`sys.executable`.

    python tests/factories/fork_server.py ADDRESS
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

LIBRARIES = (
    "torch", "torchvision", "timm", "timm.optim", "open_clip", "safetensors.torch", "h5py", "webdataset", "fsspec",
    "httpx2", "scipy.linalg", "scipy.stats", "sklearn.linear_model", "sklearn.manifold", "faiss", "distributed",
    "jaxtyping", "pydantic.dataclasses", "pydantic.json_schema", "pydantic.types", "typer.main", "rich.table", "jinja2",
    "matplotlib.pyplot", "matplotlib.backends.backend_svg", "dvc.cli.parser", "dvc.repo", "ruamel.yaml", "scmrepo.git",
)  # fmt: skip
"""What the forks find loaded. None of them starts a thread, which a fork would miss (onnxruntime does)."""
STREAMS = (0, 1, 2)
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"-"], {streams})
    server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.recv(8)
sys.exit(int(code or 1))
"""


@functools.cache
def programs() -> Path:
    """Return a folder with `python` and `dvc`. The first call starts the server, which ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="programs-"))
    address = str(folder / "address")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, address], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    for name in ("python", "dvc"):
        (folder / name).write_text(_CLIENT.format(python=sys.executable, address=address, streams=STREAMS))
        (folder / name).chmod(0o755)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)  # closes its input, and waits
    assert server.stdout.readline() == b"ready\n"
    return folder


def serve(address: str) -> list[str] | None:
    """Fork for each request until the input ends. Return its arguments in each fork, and None in the server."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        children: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([listener, woken, sys.stdin], [], [])
            if sys.stdin in ready:
                return None
            if woken in ready:
                woken.recv(64)
                _report_ended(children)
            if listener in ready:
                client, _ = listener.accept()
                if not (child := os.fork()):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _take_over(client)
                children[child] = client


def _report_ended(children: dict[int, socket.socket]) -> None:
    while children:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if not ended:
            return
        with children.pop(ended) as client:
            client.sendall(str(os.waitstatus_to_exitcode(status) & 255).encode())


def _take_over(client: socket.socket) -> list[str]:
    """Become what the client is: its streams, folder and environment. Return its arguments."""
    _, streams, _, _ = socket.recv_fds(client, 1, len(STREAMS))
    with client.makefile("rb") as request:
        arguments, folder, environment = json.load(request)
    for taken, own in zip(streams, STREAMS, strict=True):
        os.dup2(taken, own)
        os.close(taken)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


def run(program: str, arguments: list[str]) -> None:
    """Run what `dvc …`, `python FILE …`, `python -m MODULE …` or `python -c CODE …` would."""
    if Path(program).name == "dvc":
        sys.argv = ["dvc", *arguments]
        raise SystemExit(importlib.import_module("dvc.cli").main())
    option, *others = arguments
    sys.path[0] = "" if option in {"-c", "-m"} else str(Path(option).resolve().parent)
    sys.argv = [option, *others[1:]] if option in {"-c", "-m"} else arguments
    if option == "-c":
        exec(compile(others[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  this is what -c does
    elif option == "-m":
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(option, run_name="__main__")


def end_as(program: Callable[[], None]) -> NoReturn:
    """Run a program and end as an interpreter does, but for tearing down what the server has loaded."""
    code: object = None
    try:
        program()
    except SystemExit as ending:
        code = ending.code
    except BaseException:  # noqa: BLE001  the interpreter's own way with what nobody caught
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    assert len(list(Path("/proc/self/task").glob("*"))) <= 1
    gc.freeze()  # forks share the pages of what is loaded: collecting garbage would write to them
    if request := serve(sys.argv[1]):
        end_as(functools.partial(run, request[0], request[1:]))
    os._exit(0)
