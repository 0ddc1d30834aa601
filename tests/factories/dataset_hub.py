"""A dataset repository of the Hub on this machine: the few answers that reading a folder's files needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.factories.hub_server import COMMIT, HubHandler

NAME = "me/set"


class DatasetHub(ThreadingHTTPServer):
    """The files of a folder as the repository `me/set`; `fail` is how many of the next requests get a status."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _DatasetHandler)
        self.folder, self.status, self.fail = folder, 503, 0
        self.token = ""
        """The only token that is let in, or '' for everybody."""
        self.asked: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def entry(self, path: Path) -> dict[str, Any]:
        """Return what the Hub says of a file or folder; a file's identity is git's hash of its content."""
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}  # noqa: S324
        data = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324  git's own
        return {"type": "file", "path": name, "size": len(data), "oid": oid}


class _DatasetHandler(HubHandler):
    server: DatasetHub
    protocol_version = "HTTP/1.1"

    def refused(self) -> bool:
        if self.server.fail:
            self.server.fail -= 1
            self.answer(b"{}", self.server.status)
            return True
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer(b"{}", 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository Not Found")
            return True
        return False

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.refused():
            return
        if found := re.fullmatch(rf"/api/datasets/{NAME}/tree/main/?(.*)", url.path):
            self.tree(unquote(found[1]), parse_qs(url.query).get("recursive", [""])[0].lower() == "true")
        elif found := re.fullmatch(rf"/datasets/{NAME}/resolve/main/(.+)", url.path):
            self.resolve(self.server.folder / unquote(found[1]))
        elif re.fullmatch(rf"/api/datasets/{NAME}(/revision/main)?", url.path):
            self.server.asked["info"] += 1
            self.answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif url.path.startswith(f"/api/datasets/{NAME}/"):
            self.answer(b"{}", 404, X_Error_Code="RevisionNotFound")
        else:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.refused():
            return
        self.server.asked["paths-info"] += 1
        as_json = body.startswith("{")
        names = json.loads(body)["paths"] if as_json else parse_qs(body).get("paths", [])
        paths = [self.server.folder / name for name in ([names] if isinstance(names, str) else names)]
        self.answer(json.dumps([self.server.entry(path) for path in paths if path.exists()]).encode())

    def tree(self, name: str, recursive: bool) -> None:
        self.server.asked["tree"] += 1
        folder = self.server.folder / name
        if not folder.is_dir():
            self.answer(b"{}", 404, X_Error_Code="EntryNotFound")
            return
        found = sorted(folder.rglob("*") if recursive else folder.iterdir())
        self.answer(json.dumps([self.server.entry(path) for path in found]).encode())

    def resolve(self, path: Path) -> None:
        self.server.asked["resolve"] += 1
        if not path.is_file():
            self.answer(b"", 404, X_Error_Code="EntryNotFound")
            return
        data, span = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            self.answer(data, ETag=f'"{self.server.entry(path)["oid"]}"')
            return
        first, part = int(span[1]), data[int(span[1]) : int(span[2]) + 1]
        self.answer(part, 206, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(data)}")

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for
