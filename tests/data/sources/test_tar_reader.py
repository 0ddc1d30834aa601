from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline.data.sources.tar_reader import BadTarError, tar_members
from pipeline.project.remote import reader
from pipeline.project.remote.objects import ObjectBytes
from pipeline.project.remote.paths import RemotePath

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def made(
    path: Path, names: list[str], change: Callable[[tarfile.TarInfo], None] = lambda _: None, kind: int = 0
) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 10 * number
            change(info)
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def names(path: Path) -> list[str]:
    return [member.extension for member in tar_members(path.parent, path.name)]


@pytest.mark.parametrize("kind", FORMATS)
def test_files_are_found_where_pythons_own_reader_finds_them(tmp_path: Path, kind: int) -> None:
    path = made(tmp_path / "a.tar", ["a.jpg", "b/c.jpg", "d" * 80 + "/" + "e" * 90 + ".jpg", "naïve 猫.jpg"], kind=kind)
    with tarfile.open(path) as tar:  # the oracle
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    found = [(member.extension, member.offset, member.size) for member in tar_members(tmp_path, "a.tar")]
    assert found == expected


SAFE_NAMES = st.text("ab._-/é猫: 0", min_size=1, max_size=200).filter(
    lambda name: not {"", ".."} & set(name.split("/"))
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(st.tuples(SAFE_NAMES, st.integers(0, 2000)), min_size=1, max_size=5),
    kind=st.sampled_from(FORMATS),
    time=st.sampled_from([0, 1_700_000_000.25, -1.5]),
)
def test_members_of_any_names_and_times_are_those_of_pythons_own_reader(
    tmp_path: Path, members: list[tuple[str, int]], kind: int, time: float
) -> None:
    """A time with a fraction, as WebDataset's writer stores it, costs an extended header for each member."""
    try:
        with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
            for name, size in members:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = size, max(time, 0) if kind == tarfile.USTAR_FORMAT else time
                tar.addfile(info, io.BytesIO(b"x" * size))
    except ValueError:
        assume(False)  # a name that ustar cannot hold
    with tarfile.open(tmp_path / "a.tar") as tar:  # the oracle
        expected = [(info.name.removeprefix("./"), info.offset_data, info.size) for info in tar]
    found = [(member.extension, member.offset, member.size) for member in tar_members(tmp_path, "a.tar")]
    assert found == expected


def test_every_byte_of_a_header_counts_in_its_checksum(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.tar", ["a.jpg"]).read_bytes()
    for at in (*range(0, 148, 7), *range(156, 512, 7), 255, 256, 511):
        damaged = bytearray(whole)
        damaged[at] ^= 0x80
        (tmp_path / "a.tar").write_bytes(damaged)
        with pytest.raises(BadTarError, match="no tar header at byte 0"):
            names(tmp_path / "a.tar")


def test_a_header_of_the_largest_bytes_has_the_checksum_that_other_programs_give_it(tmp_path: Path) -> None:
    """Its sum, 92,000, is above the modulus of the checksum by which headers are summed here."""
    path = made(tmp_path / "a.tar", ["a.jpg", "b.jpg"])
    data = bytearray(path.read_bytes())
    for unused in (slice(157, 257), slice(265, 329), slice(345, 500)):
        data[unused] = b"\xff" * len(data[unused])
    data[345] = 0  # the prefix of a GNU header is not read
    data[257:265] = b"ustar  \0"
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * ord(" ") + sum(data[156:512]))
    path.write_bytes(data)
    assert sum(data[:512]) > 65521
    assert names(path) == ["a.jpg", "b.jpg"]


def test_folders_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("set")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("set/a.jpg"))
    assert names(tmp_path / "a.tar") == ["set/a.jpg"]


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(1536), "cut short: no end mark after 1536 bytes"),  # between members: others see a shorter tar
        (cut(1536 + 200), "cut short: no end mark after 1736 bytes"),  # inside a header
        (cut(512 + 512 + 5), "cut short: 'b.jpg' reaches 5 bytes beyond the end"),  # inside a file
        (cut(6 * 512), "cut short: half an end mark"),
        (cut(0), "no tar: it has 0 bytes"),
        (lambda data: data[:512] + b"?" * 512 + data[1024:], "no tar header at byte 512"),
        (lambda data: data + data, "something follows its end mark"),
        (gzip.compress, "no tar: it has \\d+ bytes"),
        (lambda data: b"<html>" + bytes(1000), "no tar header at byte 0: not a tar"),
    ],
)
def test_a_damaged_tar_is_refused_with_its_name_and_the_place(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = made(tmp_path / "00007.tar", ["a.jpg", "b.jpg", "c.jpg"])
    whole = path.read_bytes()[: 5 * 512 + 1024]  # the padding to ten kilobytes is not needed
    assert whole.endswith(bytes(1024))
    path.write_bytes(damage(whole))
    with pytest.raises(BadTarError, match=rf"00007\.tar: {message}"):
        names(path)


@pytest.mark.parametrize("time", [0, 1.5])
def test_a_cut_tar_in_object_storage_is_refused_as_on_a_disk_and_nothing_beyond_its_end_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: float
) -> None:
    def with_time(info: tarfile.TarInfo) -> None:
        info.mtime = time  # a fraction has an extended header

    path = made(tmp_path / "a.tar", ["a.jpg", "b.jpg"], with_time, tarfile.PAX_FORMAT)
    whole = path.read_bytes()
    asked: list[tuple[int, int]] = []

    def read(_: RemotePath, offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return path.read_bytes()[offset : offset + size]

    monkeypatch.setattr(reader, "read_range", read)
    for size in range(512, 3 * 512 * (3 if time else 1), 256):
        path.write_bytes(whole[:size])
        with pytest.raises(BadTarError, match="cut short") as local:
            names(path)
        with pytest.raises(BadTarError, match="cut short") as remote:
            list(tar_members(RemotePath("s3://bucket"), "a.tar", ObjectBytes(size, "1")))
        assert str(remote.value).partition("a.tar")[2] == str(local.value).partition("a.tar")[2]
        assert all(0 < length <= size - offset for offset, length in asked)
        asked.clear()


def test_the_standard_reader_takes_a_cut_tar_for_a_shorter_one(tmp_path: Path) -> None:
    path = made(tmp_path / "a.tar", ["a.jpg", "b.jpg", "c.jpg"])
    path.write_bytes(path.read_bytes()[:1536])
    with tarfile.open(path) as tar:  # why a reader of our own is worth its lines
        assert len(tar.getnames()) == 2


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.CONTTYPE, "of kind b'7'"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, what: str) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    path = made(tmp_path / "a.tar", ["a.jpg"], change)
    with pytest.raises(BadTarError, match=f"'a.jpg' is {what}; expected files only"):
        names(path)


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd.jpg", "..", ""])
@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, kind: int) -> None:
    with pytest.raises(BadTarError, match="leads elsewhere"):
        names(made(tmp_path / "a.tar", [name], kind=kind))


def test_names_that_webdataset_would_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTarError, match="is a command to WebDataset"):
        names(made(tmp_path / "a.tar", ["pipe:touch x.jpg"]))


def test_an_extended_header_cannot_lie(tmp_path: Path) -> None:
    path = made(tmp_path / "a.tar", ["ü" * 120 + ".jpg"], kind=tarfile.PAX_FORMAT)
    data = path.read_bytes()
    at = data.index(b"path=") - 4
    for lie in (b"999 path=", b"  0 path=", b"-12 path="):
        path.write_bytes(data[:at] + lie + data[at + len(lie) :])
        with pytest.raises(BadTarError, match="an extended header that cannot be read"):
            names(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10240), st.integers(0, 255), st.integers(0, 10240))
@example(124, 0x80, 10240)  # a size of its own encoding, with 88 bits
def test_no_damage_gives_anything_but_a_refusal_or_the_members(tmp_path: Path, at: int, value: int, size: int) -> None:
    path = made(tmp_path / "a.tar", ["a.jpg", "ü" * 120 + ".jpg", "c.jpg"], kind=tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    if at < len(data):
        data[at] = value
    path.write_bytes(data[:size])
    try:
        found = list(tar_members(tmp_path, "a.tar"))
    except BadTarError as error:
        assert "a.tar" in str(error)  # noqa: PT017  either outcome is right
    else:
        assert all(member.offset + member.size <= size for member in found)
