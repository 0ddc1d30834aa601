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
    split = packed(tmp_path, both(tmp_path), max_skipped_fraction=0.5)
    assert [(sample.key, sample.captions) for sample in samples(split)] == [
        ("one/a", ("first",)),
        ("two/a", ("second",)),
        ("two/c", ("third",)),
    ]
    assert split.counts["listed"] == 5


def test_what_is_skipped_says_which_source_it_came_from(tmp_path: Path) -> None:
    split = packed(tmp_path, both(tmp_path), max_skipped_fraction=0.5)
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


def domains(tmp_path: Path, **more: dict[str, object]) -> dict[str, object]:
    """Return two class folders of equal classes, each with templates of its own."""
    photo = {**class_folder(tmp_path / "photo", {"cat": 2, "dog": 1}), "templates": ["a photo of a {c}", "a {c}"]}
    sketch = {**class_folder(tmp_path / "sketch", {"cat": 1, "dog": 2}), "templates": ["a sketch of a {c}", "a {c}"]}
    return {"source": "several", "sources": {"sketch": sketch, "photo": photo, **more}}


def test_labeled_sources_of_equal_classes_are_one_labeled_split_whose_samples_know_their_domain(
    tmp_path: Path,
) -> None:
    split = packed(tmp_path, domains(tmp_path))
    assert [(split.domain_of(sample.key), sample.label) for sample in samples(split)] == [
        ("photo", 0),
        ("photo", 0),
        ("photo", 1),
        ("sketch", 0),
        ("sketch", 1),
        ("sketch", 1),
    ]
    assert split.classes == ("cat", "dog")
    assert split.templates == ("a sketch of a {c}", "a {c}", "a photo of a {c}")
    assert split.domains == {"photo": ("a photo of a {c}", "a {c}"), "sketch": ("a sketch of a {c}", "a {c}")}
    # Negative control: a split of one source has one domain, its own name, and its manifest no word of domains.
    alone = packed(tmp_path / "alone", class_folder(tmp_path / "pets", {"cat": 2, "dog": 1}))
    assert {alone.domain_of(sample.key) for sample in samples(alone)} == {"train"}
    assert "domains" not in alone.manifest()


def test_domains_with_other_classes_or_none_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"have different classes: class 1 is 'cow' and 'dog'"):
        planned(domains(tmp_path / "0", art=class_folder(tmp_path / "art", {"cat": 1, "cow": 1})))
    with pytest.raises(UsageError, match=r"have different classes: 1 and 2 classes"):
        planned(domains(tmp_path / "1", art=class_folder(tmp_path / "few", {"cat": 1})))
    with pytest.raises(
        UsageError, match=r"'.*sources\.sketch' has classes and '.*sources\.web' none.*`source: images`"
    ):
        planned(domains(tmp_path / "2", web=coco(tmp_path / "web", {"a.png": ["x"]})))


def listed(tmp_path: Path, name: str, *lines: str) -> str:
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    return str(tmp_path / name)


def test_lists_of_names_cut_a_class_folder_into_splits_and_leave_labels_as_they_are(tmp_path: Path) -> None:
    value = class_folder(tmp_path / "photo", {"cat": 2, "dog": 3, "emu": 1})
    names = sorted(path.relative_to(tmp_path / "photo").as_posix() for path in (tmp_path / "photo").rglob("*.*"))
    dogs = [name for name in names if name.startswith("dog/")]
    # As in JiGen's lists: more folders in front, a label behind; and a converted copy's ending.
    train = listed(
        tmp_path, "train.txt", f"PACS/photo/{dogs[0]} 2", f"PACS/photo/{Path(dogs[1]).with_suffix('.tif')} 2"
    )
    rest = listed(tmp_path, "rest.txt", *(name for name in names if name not in dogs[:2]))
    split = packed(tmp_path, {**value, "splits": train})
    assert [sample.label for sample in samples(split)] == [1, 1]
    assert split.classes == ("cat", "dog", "emu")
    both = packed(tmp_path / "both", {**value, "splits": [train, rest]})
    every = packed(tmp_path / "every", value)
    assert [(s.key, s.label) for s in samples(both)] == [(s.key, s.label) for s in samples(every)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dog/nowhere.png", "1 of them are not in"),
        ("PACS/sketch/dog/0.png 2", "1 of them are not in"),
        ("PACS/another-photo/dog/0.png 2", "1 of them are not in"),
        ("", "names no images"),
    ],
)
def test_a_list_of_other_images_is_refused(tmp_path: Path, line: str, said: str) -> None:
    value = class_folder(tmp_path / "photo", {"cat": 2, "dog": 3})
    with pytest.raises(UsageError, match=said):
        planned({**value, "splits": listed(tmp_path, "train.txt", line)})


def test_a_parameter_that_is_not_used_is_in_no_fingerprint(tmp_path: Path) -> None:
    value = class_folder(tmp_path / "photo", {"cat": 1})
    assert "splits" not in parse_source(value, "index.train").model_dump(mode="json")
