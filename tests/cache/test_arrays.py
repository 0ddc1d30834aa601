"""Array files are what was written, or they are refused with their name."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.arrays import read_arrays, write_arrays
from cache.errors import DamagedError, MissingError
from cache.header import BLOCK_BYTES, render_header

SOME: dict[str, np.ndarray] = {
    "image/mean": np.arange(512.0),
    "embedding": np.ones((300, 7), np.float32),
    "flip": np.array([True, False]),
    "keys": np.array(["a", "œuf", ""]),
    "none": np.zeros((0, 4), np.float32),
    "scalar": np.array(3.5),
}


def sealed(path: Path, image: bytes) -> Path:
    """Write an HDF5 file under a user block that says it is whole: what an attacker can do."""
    path.write_bytes(render_header(hashlib.sha256(image).hexdigest(), len(image)) + image)
    return path


def hostile(path: Path, build: Callable[[h5py.File], object]) -> Path:
    """Write a file with the right hash whose structure `build` made with plain h5py."""
    plain = path.with_name("plain.h5")
    with h5py.File(plain, "w", userblock_size=BLOCK_BYTES) as file:
        build(file)
    return sealed(path, plain.read_bytes()[BLOCK_BYTES:])


def test_arrays_and_attributes_come_back_as_they_went_in(tmp_path: Path) -> None:
    digest = write_arrays(tmp_path / "a.h5", SOME, {"format": 1, "name": "œ", "floor": 0.01, "unit": True})
    file = read_arrays(tmp_path / "a.h5", digest)
    assert file.attributes == {"format": 1, "name": "œ", "floor": 0.01, "unit": True}
    assert type(file.attributes["unit"]) is bool
    assert file.arrays.keys() == SOME.keys()
    assert file.arrays["keys"].tolist() == [b"a", "œuf".encode(), b""]
    for name in SOME.keys() - {"keys"}:
        np.testing.assert_array_equal(file.arrays[name], SOME[name])
        assert file.arrays[name].dtype == SOME[name].dtype


shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(hnp.arrays(st.sampled_from(["<f4", ">f8", "<i8", "?", "S3"]), shapes))
def test_any_plain_array_comes_back_with_its_shape(tmp_path: Path, array: np.ndarray) -> None:
    write_arrays(tmp_path / "a.h5", {"a": array})
    found = read_arrays(tmp_path / "a.h5").arrays["a"]
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape


def test_so_many_arrays_that_their_names_leave_the_room_set_aside_for_them_come_back_too(tmp_path: Path) -> None:
    arrays = {f"{'long' * 20}/{number:03d}": np.full(number, number) for number in range(200)}
    write_arrays(tmp_path / "a.h5", arrays, {f"attribute {number}": "x" * 200 for number in range(50)})
    found = read_arrays(tmp_path / "a.h5").arrays
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file["long" * 20]) == 200


def test_equal_arrays_make_equal_bytes_at_any_time(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", SOME, {"x": 1, "y": "z"})
    time.sleep(1.1)  # HDF5 would write times in whole seconds
    write_arrays(tmp_path / "b.h5", dict(reversed(SOME.items())), {"y": "z", "x": 1})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_arrays_are_mapped_at_page_boundaries_and_read_only(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", SOME)
    array = read_arrays(tmp_path / "a.h5").arrays["embedding"]
    assert array.ctypes.data % BLOCK_BYTES == 0
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2


def test_the_recorded_hash_is_that_of_everything_after_the_first_page(tmp_path: Path) -> None:
    digest = write_arrays(tmp_path / "a.h5", SOME)
    data = (tmp_path / "a.h5").read_bytes()
    assert hashlib.sha256(data[BLOCK_BYTES:]).hexdigest() == digest
    assert f"sha256 {digest}\n".encode() in data[:BLOCK_BYTES]


def test_plain_h5py_reads_the_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", SOME)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["image/mean"][()], SOME["image/mean"])


def test_a_flip_of_any_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_arrays(path, SOME, {"x": 1})
    data = bytearray(path.read_bytes())
    for position in [*range(0, 200), *range(200, len(data), 97)]:
        data[position] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"a\.h5"):
            read_arrays(path)
        data[position] ^= 0x10
    path.write_bytes(data)
    read_arrays(path)


@pytest.mark.parametrize("keep", [0, 1, 100, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, -1])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_file_cut_short_is_found_even_without_hashing(tmp_path: Path, keep: int, hashed: bool) -> None:
    path = tmp_path / "a.h5"
    write_arrays(path, SOME)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError, match=r"a\.h5"):
        read_arrays(path, hashed=hashed)


def test_bytes_after_the_end_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_arrays(path, SOME)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedError, match="expected"):
        read_arrays(path)


def test_a_whole_file_in_the_place_of_another_is_found_even_without_hashing(tmp_path: Path) -> None:
    expected = write_arrays(tmp_path / "a.h5", SOME)
    write_arrays(tmp_path / "b.h5", {**SOME, "embedding": np.zeros((300, 7), np.float32)})
    with pytest.raises(DamagedError, match=f"expected {expected[:12]}"):
        read_arrays(tmp_path / "b.h5", expected, hashed=False)


def test_a_missing_file_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere"):
        read_arrays(tmp_path / "nowhere.h5")
    (tmp_path / "foreign.h5").write_bytes(b"x" * 10_000)
    with pytest.raises(DamagedError, match=r"foreign\.h5.*not one of our array files"):
        read_arrays(tmp_path / "foreign.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(DamagedError, match="folder"):
        read_arrays(tmp_path / "folder.h5")


def external_link(file: h5py.File) -> None:
    file["embedding"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["a"] = np.zeros(3)
    file["b"] = h5py.SoftLink("/a")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("a", (10,), "f4", external=[("/etc/passwd", 0, 40)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("a", layout)


def compressed(file: h5py.File) -> None:
    file.create_dataset("a", data=np.zeros(1000), compression="gzip")


def chunked_with_a_huge_size(file: h5py.File) -> None:
    file.create_dataset("a", (2**40, 512), "f4", chunks=(1, 512))


def never_allocated(file: h5py.File) -> None:
    file.create_dataset("a", (2**40, 512), "f4")


def objects(file: h5py.File) -> None:
    file.create_dataset("a", data=["text", "of any length"], dtype=h5py.string_dtype())


def references(file: h5py.File) -> None:
    file["x"] = np.zeros(2)
    file.create_dataset("a", data=[file["x"].ref], dtype=h5py.ref_dtype)


def compound(file: h5py.File) -> None:
    file["a"] = np.zeros(3, dtype=[("x", "f4"), ("y", "i4")])


def a_circle(file: h5py.File) -> None:
    file.create_group("a")["again"] = file["/"]


def a_named_type(file: h5py.File) -> None:
    file["a"] = np.dtype("f8")


def many_names(file: h5py.File) -> None:
    for number in range(300):
        file.create_group(f"g{number}")


def an_array_attribute(file: h5py.File) -> None:
    file.attrs["a"] = np.zeros(100)


def an_empty_attribute(file: h5py.File) -> None:
    file.attrs["a"] = h5py.Empty("f4")


def many_attributes(file: h5py.File) -> None:
    for number in range(300):
        file.attrs[f"a{number}"] = 1


def no_shape(file: h5py.File) -> None:
    file["a"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    "build",
    [
        external_link,
        soft_link,
        external_storage,
        virtual,
        compressed,
        chunked_with_a_huge_size,
        never_allocated,
        objects,
        references,
        compound,
        a_circle,
        a_named_type,
        many_names,
        an_array_attribute,
        an_empty_attribute,
        many_attributes,
        no_shape,
    ],
    ids=lambda build: build.__name__,
)
def test_a_hostile_structure_under_a_right_hash_is_refused_with_the_file_s_name(
    tmp_path: Path, build: Callable[[h5py.File], object]
) -> None:
    with pytest.raises(DamagedError, match=r"hostile\.h5: damaged: "):
        read_arrays(hostile(tmp_path / "hostile.h5", build))


def test_the_control_for_hostile_files_is_read(tmp_path: Path) -> None:
    def plain(file: h5py.File) -> None:
        file["group/a"] = np.arange(3)
        file.attrs["x"] = 1

    assert read_arrays(hostile(tmp_path / "plain_one.h5", plain)).arrays["group/a"].tolist() == [0, 1, 2]


def test_a_size_declared_beyond_the_file_is_refused_without_allocating_it(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", {"a": np.zeros((37, 41), np.float32)})
    image = bytearray((tmp_path / "a.h5").read_bytes()[BLOCK_BYTES:])
    shape = struct.pack("<2Q", 37, 41)
    while (at := image.find(shape)) >= 0:
        image[at : at + 16] = struct.pack("<2Q", 2**40, 2**20)
    with pytest.raises(DamagedError, match=r"huge\.h5"):
        read_arrays(sealed(tmp_path / "huge.h5", bytes(image)))


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_under_a_right_hash_is_read_or_refused_but_never_anything_else(tmp_path: Path, seed: int) -> None:
    # The hash cannot help here: the parser meets the damage. It must not crash, hang or raise anything of its own.
    generator = np.random.default_rng(seed)
    write_arrays(tmp_path / "a.h5", SOME, {"x": 1, "name": "text"})
    image = bytearray((tmp_path / "a.h5").read_bytes()[BLOCK_BYTES:])
    for position in generator.integers(0, 4096, size=1 + seed % 8):
        image[position] = generator.integers(256)
    with suppress(DamagedError):
        read_arrays(sealed(tmp_path / "b.h5", bytes(image)))
