"""An opened project is one reading of params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.project import Project, refuse_urls

PARAMS = """
index: {splits: [train, val, badges, icons]}
whiten: {targets: [raw, zca], zca: {floor: 0.01}}
distill: {students: [a, b], targets: [raw, zca]}
broken: {names: [1, 2]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return Project.open(tmp_path / "params.yaml", (), tmp_path)


def test_every_split_but_train_and_val_is_a_zero_shot_set(project: Project) -> None:
    assert project.zero_shot_splits == ["badges", "icons"]


def test_the_arms_are_every_student_against_every_target_space(project: Project) -> None:
    assert project.arms == [("a", "raw"), ("a", "zca"), ("b", "raw"), ("b", "zca")]


def test_a_name_is_chosen_from_the_params_or_refused_with_the_nearest(project: Project) -> None:
    assert project.select("whiten.targets", None) == ["raw", "zca"]
    assert project.select("whiten.targets", "zca") == ["zca"]
    with pytest.raises(UsageError, match="did you mean 'zca'"):
        project.select("whiten.targets", "zcaa")


def test_a_list_of_something_else_than_names_is_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="expected a list of names"):
        project.name_list("broken.names")


def test_an_edit_while_a_stage_runs_is_refused_and_says_from_what_to_what(project: Project) -> None:
    project.check_unchanged("whiten.zca", "distill")
    project.params.write_text(PARAMS.replace("0.01", "0.9"))
    with pytest.raises(PipelineError, match=r"'whiten.zca' changed while the stage ran, from .*0\.01.* to .*0\.9"):
        project.check_unchanged("distill", "whiten.zca")
    # What did not change is no reason to fail.
    project.check_unchanged("distill", "index")


def test_overrides_hold_in_the_second_reading_too(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    project = Project.open(tmp_path / "params.yaml", ["whiten.zca.floor=0.5"], tmp_path)
    assert project.get("whiten.zca.floor") == 0.5
    project.check_unchanged("whiten.zca")


@pytest.mark.parametrize("url", ["s3://user:hidden@bucket/a", "gs://b", "https://host/?sig=hidden"])
def test_a_url_where_a_path_is_expected_is_refused_without_its_credentials(url: str) -> None:
    with pytest.raises(UsageError, match="'root': expected a path of a file system, found a URL") as error:
        refuse_urls({"split": "s3://kept", "root": Path(url)})
    assert "hidden" not in str(error.value)


def test_a_folder_that_is_named_like_a_scheme_is_a_path() -> None:
    """Negative control."""
    refuse_urls({"root": Path("s3/a"), "params": Path("hf"), "out": None, "model": Path(), "card": Path("/s3:/a")})
