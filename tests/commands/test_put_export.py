from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from cache.reader import EmbeddingStore
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.remote.objects import list_objects, read_object
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.store import parse_out, put_export
from tests import ROOT
from tests.factories.object_storage import BUCKET, FaultyProxy, S3Server


def test_an_exported_folder_is_put_whole_through_faults_and_its_checksums_last(
    exported: Path, faulty_s3: FaultyProxy
) -> None:
    out = RemotePath(f"s3://{BUCKET}/exports/one")
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert put_export(exported, out) == f"{out}: {len(files)} files, checksums.json last"
    assert {name: read_object(out / name, 1 << 30) for name in list_objects(out)} == files
    assert faulty_s3.puts[-1].endswith("/exports/one/checksums.json")
    assert sum(faulty_s3.injected.values()) > 3


def test_embeddings_are_exported_to_a_url_from_the_command_line(
    project_copy: Layout, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["export-embeddings", "--split", "val", "--format", "npy", "--root", str(project_copy.root)]
    shown = CliRunner().invoke(cli.app, [*words, "--out", f"s3://{BUCKET}/exports/val"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert f"s3://{BUCKET}/exports/val: " in shown.stdout
    made = project_copy.root / "exports/embeddings-val"
    there = list_objects(RemotePath(f"s3://{BUCKET}/exports/val"))
    assert sorted(there) == sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    name = next(name for name in there if "image" in name and name.endswith(".npy"))
    (tmp_path / "rows.npy").write_bytes(s3.request("GET", f"exports/val/{name}"))
    rows = EmbeddingStore.open(project_copy.embeddings("val")).image().load()
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows)


def test_an_output_is_a_path_or_a_url_without_credentials() -> None:
    assert parse_out("exports/x") == (Path("exports/x"), None)
    assert parse_out("s3://b/x/") == (None, RemotePath("s3://b/x"))
    assert parse_out(None) == (None, None)
    with pytest.raises(UsageError, match=r"--out .*without user, password or query") as error:
        parse_out("s3://KEY:hidden@b/x")
    assert "hidden" not in str(error.value)


def test_a_web_server_takes_no_export(exported: Path) -> None:
    with pytest.raises(UsageError, match="https:// is read only"):
        put_export(exported, RemotePath("https://example.org/x"))
