"""Parameters of teachers, validated before open_clip or timm can substitute other weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cache.teachers import JOINT
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.input_files import MAX_DOCUMENT_BYTES, read_input
from pipeline.project.layout import require_name
from pipeline.project.lazy_dynamo import defer_torch_dynamo
from pipeline.project.params import ParamsSection, renamed
from pipeline.project.project import Project

LOCAL, HUB, TIMM = "local-dir:", "hf-hub:", "timm:"
CONFIG = "open_clip_config.json"
RANDOM = "random"


class TeacherParams(ParamsSection):
    """The `embed.teacher:` section, and each entry of `embed.teachers:`."""

    model: str
    """`ViT-B-16`, `hf-hub:org/name` or `local-dir:path`; `timm:name` is an image-only model."""
    pretrained: str | None = None
    """Tag or file of the weights; `random`: seeded random weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Half precision is compared with fp32 first, and refused if whitening would amplify its noise."""
    allow_half_precision_noise: bool = renamed("accept_noise", default=False)
    """Accept any noise of half precision, for targets that are not whitened."""
    image_size: int | None = Field(default=None, ge=8, exclude_if=lambda size: size is None)
    """For a `timm:` model: input size; default: that of its weights."""

    @property
    def is_image_only(self) -> bool:
        """Return whether it is an image-only model."""
        return self.model.startswith(TIMM)

    @property
    def name(self) -> str:
        """Return the name for messages and manifests: for a local folder its name, not its path."""
        model = f"{LOCAL}{Path(self.model.removeprefix(LOCAL)).name}" if self.model.startswith(LOCAL) else self.model
        return f"{model} ({Path(self.pretrained).name})" if self.pretrained else model


def validate_teacher(params: TeacherParams) -> None:
    """Refuse parameters for which open_clip or timm would silently use a download, random weights or other activations.

    Raises:
        UsageError: no such model, tag, folder or file.
    """
    if params.is_image_only:
        _check_image_model(params)
        return
    if params.image_size is not None:
        raise UsageError(
            f"params: 'embed.teacher.image_size': {params.model} has a size of its own: leave it out (only {TIMM} "
            "models take one)"
        )
    if params.model.startswith((LOCAL, HUB)):
        if params.pretrained is not None:
            raise UsageError(
                f"params: 'embed.teacher.pretrained': {params.model} brings its own weights, "
                f"found {params.pretrained!r}: leave it out"
            )
        if params.model.startswith(LOCAL):
            _check_folder(Path(params.model.removeprefix(LOCAL)))
    else:
        _check_published(params.model, params.pretrained)


def _check_published(model: str, tag: str | None) -> None:
    open_clip = import_open_clip()
    if model not in open_clip.list_models():
        raise UsageError(
            "params: 'embed.teacher.model': open_clip has no model "
            f"'{model}'{did_you_mean(model, open_clip.list_models())} "
            f"Models of your own: `{LOCAL}path` or `{HUB}org/name`."
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag is None or (tag != RANDOM and tag not in tags and not Path(tag).is_file()):
        problem = f"no weights '{tag}'{did_you_mean(tag, tags)}" if tag else "which weights?"
        names = ", ".join([*tags, "a file"])
        raise UsageError(f"params: 'embed.teacher.pretrained': {model}: {problem} Known: {names}.")
    published = open_clip.get_pretrained_cfg(model, tag)
    if published and published.get("quick_gelu", False) != open_clip.get_model_config(model).get("quick_gelu", False):
        raise UsageError(f"params: 'embed.teacher.model': {tag} was trained with QuickGELU: choose '{model}-quickgelu'")


def _check_image_model(params: TeacherParams) -> None:
    timm = import_timm()
    name, tag = params.model.removeprefix(TIMM), params.pretrained
    if not timm.is_model(name):
        raise UsageError(
            f"params: 'embed.teacher.model': timm has no model '{name}'{did_you_mean(name, timm.list_models())}"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag is None or (tag != RANDOM and tag not in tags and not Path(tag).is_file()):
        problem = f"no weights '{tag}'{did_you_mean(tag, tags)}" if tag else "which weights?"
        names = ", ".join([*tags, "a .safetensors file"])
        raise UsageError(f"params: 'embed.teacher.pretrained': {params.model}: {problem} Known: {names}.")


def import_timm() -> Any:
    """Import timm on demand."""
    with defer_torch_dynamo():
        import timm
    return timm


def import_open_clip() -> Any:
    """Import open_clip on demand; it takes seconds."""
    with defer_torch_dynamo():
        import open_clip
    return open_clip


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"params: 'embed.teacher.model': no folder {folder}")
    try:
        config = json.loads(read_input(folder / CONFIG, MAX_DOCUMENT_BYTES))
        text = config["model_cfg"]["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"params: 'embed.teacher.model': {folder / CONFIG}: not the configuration of an open_clip model: {error}"
        ) from None
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if name in text and not (folder / "tokenizer_config.json").is_file():
            raise UsageError(f"params: 'embed.teacher.model': {folder} needs {text[name]} from the hub: name it {HUB}…")


def read_teachers(
    teacher: TeacherParams | None, teachers: Mapping[str, TeacherParams] | None
) -> dict[str, TeacherParams]:
    """Return the teachers of `embed:` by name, in order; a single `embed.teacher` has the name ''.

    Raises:
        ValueError: neither of the two keys, both, or an invalid name.
    """
    if (teacher is None) == (teachers is None):
        raise ValueError("expected `teacher: {model: …}`, or `teachers: {name: {model: …}, …}`, and not both")
    if teacher is not None:
        return {"": teacher}
    for name in teachers or ():
        try:
            require_name(name, "teachers")
        except UsageError as error:
            raise ValueError(str(error)) from None
        if JOINT in name:
            raise ValueError(f"teachers: '{name}' holds a {JOINT}, which stands between the names of an ensemble")
    if not teachers:
        raise ValueError("teachers: expected at least one, such as {clip: {model: …}}")
    return dict(teachers)


def first_teacher(project: Project) -> TeacherParams:
    """Return the only teacher of a project, or the first of several, which commands use for texts.

    Raises:
        UsageError: there is none, or its section is wrong.
    """
    return next(iter(named_teachers(project).values()))


def named_teachers(project: Project) -> dict[str, TeacherParams]:
    """Return all teachers of a project by name, in order; a single one is called ''.

    Raises:
        UsageError: there is none, or a section is wrong.
    """
    several = project.get("embed.teachers", default={})
    if not isinstance(several, dict) or not several:
        return {"": project.section("embed.teacher", TeacherParams)}
    return {name: project.section(f"embed.teachers.{name}", TeacherParams) for name in several}
