from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.sources.cifar import safe_unpickle
from pipeline.project.errors import PipelineError, UsageError
from tests.data.sources.test_sources import planned

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)


def python2(pixels: np.ndarray, labels: list[int], names: str = "labels") -> bytes:
    """Write what Python 2's cPickle wrote for CIFAR: text as byte strings, the array by numpy.core's _reconstruct."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        + b"cnumpy\nndarray\n"
        + b"K\x00\x85"
        + text(b"b")
        + b"\x87R"
        + b"(K\x01"
        + number(len(pixels))
        + number(3072)
        + b"\x86"
        + b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R"
        + b"(K\x03"
        + text(b"|")
        + b"NNN"
        + number(-1)
        + number(-1)
        + b"K\x00tb"
        + b"\x89"
        + text(pixels.tobytes())
        + b"tb"
    )
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(names.encode()) + listed + text(b"label") + text(b"x") + b"u."


def cifar10(folder: Path, batch: bytes = b"") -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_batch").write_bytes(batch or python2(PIXELS, [3, 0, 9]))
    return {"source": "cifar", "images": str(folder)}


def test_a_batch_as_downloaded_gives_images_labels_and_names(tmp_path: Path) -> None:
    source, listing, plan = planned(cifar10(tmp_path))
    loaded = [source.load(entry) for entry in plan.entries]
    assert [entry.key for entry in plan.entries] == ["test_batch/00000", "test_batch/00001", "test_batch/00002"]
    assert [one.label for one in loaded] == [3, 0, 9]
    assert listing.classes[3] == "cat"
    assert len(listing.templates) == 18
    # Rows are planes: 1,024 red, then green, then blue.
    assert isinstance(loaded[1].image_data, np.ndarray)
    assert loaded[1].image_data[2, 5].tolist() == [PIXELS[1, plane * 1024 + 2 * 32 + 5] for plane in range(3)]


@pytest.mark.parametrize("protocol", range(5))
def test_a_batch_pickled_by_python_3_is_read_too(tmp_path: Path, protocol: int) -> None:
    batch = pickle.dumps({b"data": PIXELS, b"labels": [1, 2, 3]}, protocol)
    source, _, plan = planned(cifar10(tmp_path, batch))
    assert [source.load(entry).label for entry in plan.entries] == [1, 2, 3]


def test_cifar_100_brings_its_names(tmp_path: Path) -> None:
    (tmp_path / "test").write_bytes(python2(PIXELS, [1, 1, 0], "fine_labels"))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "maple_tree"]}, 2))
    source, listing, plan = planned({"source": "cifar", "images": str(tmp_path)})
    assert listing.classes == ("apple", "maple tree")
    assert [source.load(entry).label for entry in plan.entries] == [1, 1, 0]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("evil", [Evil(), [Evil()], {"data": Evil()}, os.system, eval, np.load, pytest.raises])
def test_a_pickle_that_names_anything_but_arrays_is_refused_and_not_run(
    tmp_path: Path, evil: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = cifar10(tmp_path / "set", pickle.dumps(evil))
    with pytest.raises(PipelineError, match=r"test_batch: refused: this pickle wants .*, and only numpy arrays"):
        planned(value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("protocol", [2, 5])
def test_an_array_that_hides_objects_is_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "p"
    path.write_bytes(pickle.dumps(np.array([Evil()], dtype=object), protocol))
    with pytest.raises(PipelineError, match="refused"):
        safe_unpickle(path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1], "expected CIFAR's dictionary, found list"),
        ({"data": [1], "labels": [1]}, "expected CIFAR's rows of 3072 bytes"),
        ({"data": PIXELS.astype(float), "labels": [1, 2, 3]}, "expected CIFAR's rows"),
        ({"data": PIXELS, "labels": [1, 2]}, "expected CIFAR's rows"),
        ({"data": PIXELS, "labels": ["a", "b", "c"]}, "expected CIFAR's rows"),
        ({"data": PIXELS}, "expected CIFAR's rows"),
        ({"data": PIXELS, "labels": [[1], [2, 3], 4]}, "expected CIFAR's rows"),
        ({"data": PIXELS, "labels": [1, 2, -1]}, "expected CIFAR's rows"),
        ({"data": PIXELS, "labels": [1, 2, 10**30]}, "expected CIFAR's rows"),
    ],
)
def test_a_pickle_of_another_shape_is_refused_with_its_name(tmp_path: Path, found: object, message: str) -> None:
    with pytest.raises(PipelineError, match=f"test_batch: {message}"):
        planned(cifar10(tmp_path, pickle.dumps(found)))


def nested_calls(times: int) -> bytes:
    """Return a pickle that hex-encodes its own output so many times: each doubles it."""
    call = pickle.GLOBAL + b"_codecs\nencode\n"
    text = pickle.BINBYTES8 + (1 << 10).to_bytes(8, "little") + b"x" * (1 << 10)
    codec = pickle.BINUNICODE + (3).to_bytes(4, "little") + b"hex"
    return b"\x80\x04" + call * times + text + (codec + pickle.TUPLE2 + pickle.REDUCE) * times + pickle.STOP


def test_a_pickle_that_grows_by_codecs_is_refused_before_it_has_grown(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "p"
    path.write_bytes(nested_calls(25))
    tracemalloc.start()
    try:
        with pytest.raises(PipelineError, match="p: refused: bytes in another codec than latin1"):
            safe_unpickle(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    # Negative control: Python's own unpickler does what it is told, here 1 KB doubled four times.
    assert len(pickle.loads(nested_calls(4))) == 1 << 14  # noqa: S301  made here


def test_an_array_of_a_size_of_its_own_choice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    huge = np.empty(0, np.uint8).__reduce__()[0], (np.ndarray, (1 << 40,), b"b")

    class Huge:
        def __reduce__(self) -> tuple[object, ...]:
            return huge

    path.write_bytes(pickle.dumps(Huge(), 2))
    with pytest.raises(PipelineError, match="refused: an array that is no plain numpy array"):
        safe_unpickle(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_are_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(python2(PIXELS[:1, :], [1]))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, 200)) % len(whole)] = data.draw(st.integers(0, 255))
    path = tmp_path / "p"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        safe_unpickle(path)
    except PipelineError as error:
        assert "p: refused" in str(error)  # noqa: PT017  either outcome is right


def test_a_damaged_pickle_at_which_the_interpreter_raises_an_internal_error_is_refused(tmp_path: Path) -> None:
    whole = bytearray(python2(PIXELS[:1, :], [1]))
    whole[110] = 4
    (tmp_path / "p").write_bytes(bytes(whole[:129]))
    with pytest.raises(PipelineError, match="p: refused"):
        safe_unpickle(tmp_path / "p")


def test_a_folder_that_is_no_cifar_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*cifar-10-python\.tar\.gz \(unpack it: tar xzf\)"):
        planned({"source": "cifar", "images": str(tmp_path / "cifar-10-python.tar.gz")})
    with pytest.raises(UsageError, match="it has no data_batch_1"):
        planned({**cifar10(tmp_path), "part": "train"})
