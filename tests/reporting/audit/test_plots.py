from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.reporting.audit.plots import audit_figures, write_pictures
from tests.reporting.audit.test_text import RAW, ZCA, found

RESULT = replace(
    found(RAW, ZCA),
    spectra={"image": np.geomspace(1, 1e-6, 64), "text": np.geomspace(1, 1e-8, 64)},
    correlation=np.linspace(0.8, 0.0, 64),
)


def test_pictures_are_whole_svg_files_that_follow_light_and_dark(tmp_path: Path) -> None:
    paths = write_pictures(RESULT, tmp_path)
    assert [path.name for path in paths] == ["spectra.svg", "correlation.svg", "ceilings-cifar10.svg"]
    for path in paths:
        root = ET.parse(path).getroot()  # noqa: S314  written by ourselves
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme:dark" in path.read_text(encoding="utf-8")


def test_each_picture_says_its_numbers_where_it_is_not_seen() -> None:
    made = audit_figures(RESULT)
    assert "zca 61.0%" in made["ceilings-cifar10"].svg
    assert "by clip 95.0%" in made["ceilings-cifar10"].svg
    assert "from 0.80 on the first axis" in made["correlation"].svg


def test_without_pairs_there_is_no_picture_of_their_correlation() -> None:
    assert "correlation" not in audit_figures(found(RAW))
