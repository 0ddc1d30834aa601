from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.sources.registry import parse_source
from pipeline.project.errors import UsageError
from tests.data.sources.test_sources import class_folder, coco, planned
from tests.factories.tars import tar_of
from tests.stages.test_pack import packed, samples


def both(tmp_path: Path) -> dict[str, object]:
    tar_of(tmp_path / "tars" / "0.tar", {"a.jpg": b"", "a.txt": b"x", "b.jpg": b"bad", "b.txt": b"y"})
    return {
        "source": "several",
        "sources": {
            "one": coco(tmp_path / "one", {"a.png": ["first"]}),
            "two": coco(tmp_path / "two", {"a.png": ["second"], "c.png": ["third"]}),
            "tars": {"source": "tars", "tars": str(tmp_path / "tars")},
        },
    }


def test_equal_keys_of_two_sources_stay_apart_under_their_names(tmp_path: Path) -> None:
    split = packed(tmp_path, both(tmp_path), max_bad=0.5)
    assert [(sample.key, sample.captions) for sample in samples(split)] == [
        ("one/a", ("first",)),
        ("two/a", ("second",)),
        ("two/c", ("third",)),
    ]
    assert split.counts["listed"] == 5


def test_what_is_skipped_says_which_source_it_came_from(tmp_path: Path) -> None:
    split = packed(tmp_path, both(tmp_path), max_bad=0.5)
    assert '"origin": "tars:0.tar:b"' in (split.folder / "skipped.json").read_text()


def test_errors_name_the_source_within(tmp_path: Path) -> None:
    value = both(tmp_path)
    value["sources"]["two"]["images"] = str(tmp_path / "nowhere")  # type: ignore[index]
    with pytest.raises(UsageError, match=r"'index\.train\.sources\.two\.images': no folder"):
        planned(value)
    value["sources"]["two"]["source"] = "cooc"  # type: ignore[index]
    with pytest.raises(UsageError, match=r"'index\.train\.sources\.two\.source': no source 'cooc'; did you"):
        parse_source(value, "index.train")
    with pytest.raises(UsageError, match=r"'a b': expected letters"):
        planned({"source": "several", "sources": {"a b": coco(tmp_path / "x", {"a.png": ["x"]})}})
    with pytest.raises(UsageError, match=r"'index\.train\.sources'"):
        parse_source({"source": "several", "sources": {}}, "index.train")


def test_a_zero_shot_set_is_no_part_of_a_training_split(tmp_path: Path) -> None:
    value = {"source": "several", "sources": {"pets": class_folder(tmp_path / "pets", {"cat": 1})}}
    with pytest.raises(UsageError, match=r"a zero-shot set is a split of its own; .* `source: images`"):
        planned(value)
