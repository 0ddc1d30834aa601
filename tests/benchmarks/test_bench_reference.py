"""The benchmark of packing by reference: its tars, its bare loop, and its figures."""

from __future__ import annotations

import sys
import tarfile
import zlib
from pathlib import Path

import pytest

from benchmarks import bench_reference


def test_its_tars_have_an_extended_header_for_each_member_as_webdatasets_writer_writes_them(tmp_path: Path) -> None:
    folder = bench_reference.draw_tars(tmp_path / "tars", 3, 16)
    with tarfile.open(folder / "00000.tar") as tar:  # the oracle
        members = tar.getmembers()
    assert [member.name.partition(".")[2] for member in members] == ["jpg", "json", "txt"] * 3
    assert all("mtime" in member.pax_headers for member in members)


def test_its_bare_loop_hashes_every_byte(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_bytes(bytes(range(256)) * 10_000)  # several blocks
    files[1].write_bytes(b"")
    assert bench_reference.read_and_hash(files) == [zlib.crc32(path.read_bytes()) for path in files]


def test_it_prints_every_ratio_and_compares_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"bench_reference.py --photos 5 --shorter 16 --rounds 1 --folder {tmp_path}"
    monkeypatch.setattr(sys, "argv", command.split())
    bench_reference.main()
    printed = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command.split(), "--parts"])
    bench_reference.main()
    assert "CRC-32 of the images: " in capsys.readouterr().out
    assert printed.count("bare / copy: ") == printed.count("reference / copy: ") == 2
    assert "samples compared byte for byte: 5, all the same" in printed
