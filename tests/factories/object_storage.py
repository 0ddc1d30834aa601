"""A real S3 endpoint on the loopback (moto's server), and a proxy before it that fails by a seeded schedule."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from pipeline.project.remote.retries import RetryPolicy

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIALOOPBACKTEST", "AWS_SECRET_ACCESS_KEY": "secret-of-the-loopback-endpoint"}
PATIENT = RetryPolicy(first_pause_seconds=0.02)
"""A server that injects nothing answers, however busy the machine is."""
IMPATIENT = RetryPolicy(attempts=12, first_pause_seconds=0.02, longest_pause_seconds=0.5, read_seconds=1.0)
"""A hanging request costs a second; a busy machine may let several others take as long, besides the faults."""
_START = """
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
import sys
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends with its parent, however that ends
server.stop()
"""


class S3Server:
    """Moto's server in a process of its own, with one bucket."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **CREDENTIALS},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.request("PUT", "")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, key: str, data: bytes | None = None) -> bytes:
        """Ask for an object of the bucket without our code and without a client."""
        asked = urllib.request.Request(f"{self.address}/{BUCKET}/{key}", data=data, method=method)  # noqa: S310
        asked.add_header("Content-Type", "application/octet-stream")
        asked.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request")
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())

    def upload(self, folder: Path, prefix: str) -> str:
        """Put all files of a folder below a prefix; return its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.request("PUT", f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def close(self) -> None:
        self.process.communicate(timeout=30)


def environment(address: str) -> dict[str, str]:
    """Return what a client of an endpoint reads of the environment."""
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}


class Server(Protocol):
    """What a proxy needs to know of a server on the loopback."""

    @property
    def port(self) -> int: ...


class FaultyProxy(ThreadingHTTPServer):
    """Hands requests on to a server, but for a share of them, which it lets fail.

    `faults` are the kinds to choose from: `500`, `hang` (no answer for `hang_seconds`, then the connection ends), `cut`
    (the connection ends within the body), `short` (a shorter part of an object that claims to be whole) and `slow-down`
    (listings alone). A request that failed twice (`most_failures`) is let through, so that a client that tries thrice
    gets everything.
    """

    daemon_threads = True

    def __init__(self, server: Server, faults: tuple[str, ...], share: float, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.faults, self.share = server.port, faults, share
        self.hang_seconds, self.most_hangs, self.most_failures = 1.2, 4, 2
        self.requests = 0
        self.puts: list[str] = []
        self.injected: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()  # noqa: S311  a schedule, no secret
        self._failed: Counter[tuple[str, str, str]] = Counter()
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def choose(self, method: str, path: str, span: str) -> str:
        """Return the fault of a request, or nothing."""
        with self._lock:
            self.requests += 1
            if method == "PUT":
                self.puts.append(path.partition("?")[0])
            listing = "list-type=2" in path
            possible = [fault for fault in self.faults if _fits(fault, method, span, listing)]
            if self.injected["hang"] >= self.most_hangs:  # each costs a second
                possible = [fault for fault in possible if fault != "hang"]
            asked = method, path, span
            if not possible or self._failed[asked] >= self.most_failures or self._random.random() >= self.share:
                return ""
            self._failed[asked] += 1
            first = "slow-down" in possible and not self.injected["slow-down"]  # listings are few: one of them is sure
            fault = "slow-down" if first else self._random.choice(possible)
            self.injected[fault] += 1
            return fault

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that have left."""


def _fits(fault: str, method: str, span: str, listing: bool) -> bool:
    if fault == "slow-down":
        return listing
    if fault == "short":  # a listing that claims to be whole is believed
        return method == "GET" and bool(span)
    if fault == "cut":
        return method == "GET" and not listing
    return True


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.choose(
            self.command, self.path, self.headers.get("Range", self.headers.get("x-ms-range", ""))
        )
        if fault == "hang":
            time.sleep(self.server.hang_seconds)
            self.end()
        elif fault in ("500", "slow-down"):
            code, name = (500, "InternalError") if fault == "500" else (503, "SlowDown")
            self.answer(code, {}, f"<Error><Code>{name}</Code><Message>injected</Message></Error>".encode())
        else:
            self.answer(*self.ask(body), fault)

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "expect")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        left_out = ("transfer-encoding", "connection", "content-length")
        found = {name: value for name, value in answer.getheaders() if name.lower() not in left_out}
        if self.command == "HEAD":
            found["Content-Length"] = answer.getheader("Content-Length", "0")
        data = answer.read()
        connection.close()
        return answer.status, found, data

    def answer(self, status: int, headers: dict[str, str], data: bytes, fault: str = "") -> None:
        if fault == "short":  # without checksums a client has nothing but the length to compare
            data, headers = data[: len(data) // 2], {k: v for k, v in headers.items() if "checksum" not in k.lower()}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.end()

    def end(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = hand_on  # noqa: N815  names that http.server looks for
