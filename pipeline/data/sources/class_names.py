"""Class names and templates: from a list, a file, or a published list by name."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.data.prompts import TEMPLATES, resolve_templates
from pipeline.data.sources.base import read_json, read_metadata_file
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.params import shown
from pipeline.project.remote.paths import RemotePath, is_url, parse_url
from pipeline.project.terminal import is_text

Documents = tuple[tuple[str, str], ...]
Names = tuple[str, ...]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_OPEN_CLIP = ("imagenet",)
MAX_NAME = 1000
"""Maximum characters of a name; a teacher reads 77 tokens."""


def folder_class_names(value: str | Sequence[str] | None, folders: Sequence[str], key: str) -> tuple[Names, Documents]:
    """Return the class names of sorted folders: their names with `_` as a space, or those given by `value`.

    Raises:
        UsageError: no such list, or not one name per folder.
    """
    if value is None:
        return require_text(tuple(folder.replace("_", " ") for folder in folders), key), ()
    names, documents = resolve_class_names(value, key)
    if len(names) != len(folders):
        first = ", ".join(folders[:3])
        raise UsageError(f"params: '{key}': {len(names)} names for {len(folders)} classes ({first}, …)")
    return names, documents


def resolve_class_names(value: str | Sequence[str], key: str) -> tuple[Names, Documents]:
    """Return class names in the order of labels, and the file they came from.

    `value` is a list; `cifar10`; `imagenet` (open_clip's 1,000); a text file with one name per line; `FILE.json#SET`;
    or a set of CLIP_benchmark's own list if that package is installed.

    Raises:
        UsageError: none of these.
    """
    if not isinstance(value, str):
        return require_text(tuple(value), key), ()
    if value == "cifar10":
        return CIFAR10, ()
    if value in _OPEN_CLIP:
        return _open_clip_names(), ()
    names, documents = _from_file(value, "en_classnames.json", ("cifar10", *_OPEN_CLIP), key)
    return require_text(names, key), documents


def require_text(names: Names, key: str) -> Names:
    """Return names that a tokenizer can read.

    Raises:
        UsageError: the list is empty, or a name is empty, not UTF-8, or too long.
    """
    for name in names:
        if not name.strip() or not is_text(name) or len(name) > MAX_NAME:
            raise UsageError(f"params: '{key}': {shown(name)} is no name: expected UTF-8, 1 to {MAX_NAME} characters")
    if not names:
        raise UsageError(f"params: '{key}': no names")
    return names


def load_templates(value: str | Sequence[str], key: str) -> tuple[Names, Documents]:
    """Return templates with `{c}`, and the file they came from, given in the same ways as class names.

    Raises:
        UsageError: no such list or file, or a template without `{c}`.
    """
    if not isinstance(value, str) or value in TEMPLATES:
        return require_text(resolve_templates(value, key), key), ()
    lines, documents = _from_file(value, "en_zeroshot_classification_templates.json", tuple(TEMPLATES), key)
    return require_text(resolve_templates(lines, key), key), documents


def _from_file(value: str, published: str, published_names: Names, key: str) -> tuple[Names, Documents]:
    """Return the names listed in a file, or in CLIP_benchmark's published file of this name."""
    name, _, member = value.partition("#")
    path = _parse_place(name, key)
    if isinstance(path, Path) and not path.is_file():
        lists = _clip_benchmark(published)
        if name in lists:
            return lists[name], ()
        raise UsageError(
            f"params: '{key}': '{value}' is no file and no known list{did_you_mean(name, (*published_names, *lists))} "
            f"(known: {', '.join(published_names)}{' and those of CLIP_benchmark' if lists else ''})"
        )
    if path.suffix == ".json":
        document, sha = read_json(path, key)
        return _select_list(document, member, path, key), ((path.name, sha),)
    data = read_metadata_file(path, key)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"params: '{key}': {path}: not UTF-8 at byte {error.start}") from None
    return tuple(line.strip() for line in lines if line.strip()), ((path.name, hashlib.sha256(data).hexdigest()),)


def _parse_place(name: str, key: str) -> Path | RemotePath:
    try:
        return parse_url(name) if is_url(name) else Path(name)
    except ValueError as error:
        raise UsageError(f"params: '{key}': expected {error}, found {shown(name)}") from None


def _select_list(document: object, member: str, path: Path | RemotePath, key: str) -> Names:
    """Return a list of names from a JSON file, which is a list or has several sets."""
    names = document.get(member) if isinstance(document, Mapping) else document
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        sets = f"; its sets: {', '.join(map(str, document))[:200]}" if isinstance(document, Mapping) else ""
        raise UsageError(f"params: '{key}': {path}: expected a list of names, or FILE.json#SET{sets}")
    return tuple(names)


def _clip_benchmark(published: str) -> dict[str, Names]:
    """Return CLIP_benchmark's lists by set, if it is installed, without running its code."""
    spec = find_spec("clip_benchmark")
    path = Path(spec.origin).parent / "datasets" / published if spec and spec.origin else None
    if path is None or not path.is_file():
        return {}
    return {name: tuple(names) for name, names in json.loads(path.read_bytes()).items()}


def _open_clip_names() -> Names:
    """Return open_clip's ImageNet names, read from its source code, because importing it would import torch."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise UsageError("classes: 'imagenet' are open_clip's names, and open_clip is not installed")
    code = ast.parse((Path(spec.origin).parent / "zero_shot_metadata.py").read_bytes())
    for node in code.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "IMAGENET_CLASSNAMES":
            return tuple(ast.literal_eval(node.value))
    raise UsageError("classes: this open_clip has no list of ImageNet's names")
