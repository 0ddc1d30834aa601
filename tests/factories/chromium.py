"""A headless Chromium for tests, driven over the DevTools protocol's own pipe: no driver, no port, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium on this machine (Debian: apt install chromium)"
ALLOWED = ("file:", "blob:", "data:", "about:")
"""Addresses of a page that contacts nobody."""

Event = dict[str, Any]


class Chromium:
    """One page in a browser of its own, with everything that its console and its network log said."""

    def __init__(self, profile: Path, *switches: str) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [
            str(BINARY),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={profile}",
            *switches,
        ]
        os.set_inheritable(to_browser, True)
        os.set_inheritable(from_browser, True)
        self._process = subprocess.Popen(
            command,
            preexec_fn=lambda: _place(to_browser, from_browser),  # noqa: PLW1509  only duplicates descriptors
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.events: list[Event] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(120)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, path: Path, ready: str, seconds: float = 120) -> None:
        """Open a file from disk and wait until an expression of the page is true."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait(ready, seconds)

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while self.evaluate(f"Boolean({expression})") is not True:
            if time.monotonic() > end:
                raise AssertionError(f"{expression} did not become true; the console: {self.console()}")
            time.sleep(0.1)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of the page, its promise awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def choose(self, selector: str, files: list[Path]) -> None:
        """Give files to a file input, as a person does with its dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path.resolve()) for path in files], nodeId=node)

    def screenshot(self, path: Path, width: int, height: int, scheme: str, whole: bool = False) -> None:
        """Write what is seen at a size and in a color scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.evaluate("new Promise(done => setTimeout(done, 300))")
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(image))

    def console(self) -> list[str]:
        """Return everything that was written to the console, thrown, or noted in the browser's own log."""
        self.call("Runtime.evaluate", expression="0")  # whatever was said before has arrived
        lines = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled":
                lines.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
            elif event.get("method") == "Runtime.exceptionThrown":
                lines.append(str(params["exceptionDetails"].get("exception", params)))
            elif event.get("method") == "Log.entryAdded":
                lines.append(params["entry"]["text"])
        return lines

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, and that are not inside the page or the file itself."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(ALLOWED)]

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self, seconds: float) -> Event:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], seconds)[0]:
                raise AssertionError("Chromium says nothing")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise AssertionError("Chromium ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


def _place(to_browser: int, from_browser: int) -> None:
    """Put the two ends where `--remote-debugging-pipe` looks for them: descriptors 3 and 4."""
    high = (os.dup(to_browser), os.dup(from_browser))
    for source, number in zip(high, (3, 4), strict=True):
        os.dup2(source, number)
