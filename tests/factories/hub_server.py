"""The few answers of the Hub that an upload and a download of a model need, on this machine, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Repositories by name, each a dict of files; `refuse` is a status that every upload gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ModelHandler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str] = set()
        self.refuse = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    """Answers with the Hub's headers, and writes no log."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _ModelHandler(HubHandler):
    server: HubServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.refuse:
            self.answer(json.dumps({"error": "no room"}).encode(), self.server.refuse)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            found = {"url": f"{self.server.address}/{name}", "name": name, "private": asked.get("private")}
            self.answer(json.dumps(found).encode())
        elif self.path.endswith("/preupload/main"):
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer(json.dumps({"files": files, "commitOid": COMMIT}).encode())
        elif self.path.endswith("/commit/main"):
            name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/{name}/commit/{COMMIT}"
            self.answer(json.dumps({"commitUrl": url, "commitOid": COMMIT, "success": True}).encode())
        else:
            self.answer(b"{}")

    def do_GET(self) -> None:
        name, _, file = self.path.lstrip("/").partition("/resolve/main/")
        data = self.server.repositories.get(name, {}).get(file)
        if data is not None:
            self.answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"')  # noqa: S324  the name of a file, no secret
        elif name in self.server.repositories:
            self.answer(b"", 404, X_Error_Code="EntryNotFound")
        else:
            found = {"id": "me/x", "sha": COMMIT, "siblings": [], "name": "me", "type": "user"}
            self.answer(json.dumps(found).encode())

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for
