"""An opened project: params.yaml at the start of the command, and its folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.project.code_versions import StageCode
from pipeline.project.errors import PipelineError, UsageError, did_you_mean
from pipeline.project.layout import Layout, require_name
from pipeline.project.params import ParamsDict, Runtime, S, load_params, lookup, parse_section, shown
from pipeline.project.remote.paths import PROTOCOLS

Item = TypeVar("Item")


@dataclass(frozen=True)
class Project:
    """One reading of params.yaml, which a command uses until its end."""

    params: Path
    overrides: tuple[str, ...]
    values: ParamsDict
    layout: Layout

    @classmethod
    def open(cls, params: Path, overrides: Sequence[str], root: Path) -> Project:
        """Read the params file with `--set` applied; raises UsageError."""
        layout = Layout(root)
        layout.check_root()
        return cls(params, tuple(overrides), load_params(params, overrides), layout)

    @property
    def runtime(self) -> Runtime:
        """Return the `runtime:` section, or its defaults."""
        return self.section("runtime", Runtime, default={})

    def section(self, key: str, model: type[S], default: Any = None) -> S:
        """Return one section as its params class; raises UsageError."""
        return parse_section(self.values, key, model, default)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key; raises UsageError."""
        return lookup(self.values, key, default)

    def name_list(self, key: str) -> list[str]:
        """Return a list of valid, distinct names, such as `whiten.targets`; raises UsageError."""
        names = self.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"params: '{key}': expected a list of names, found {shown(names)}")
        counts = Counter(require_name(name, f"params: '{key}'") for name in names)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise UsageError(f"params: '{key}': '{twice[0]}' stands there twice")
        return names

    def select(self, key: str, name: str | None) -> list[str]:
        """Return the requested name, or all names of the key; raises UsageError."""
        names = self.name_list(key)
        if name is not None and name not in names:
            raise UsageError(f"{shown(name)} is not in {key} [{', '.join(names)}]{did_you_mean(name, names)}")
        return names if name is None else [name]

    @property
    def zero_shot_splits(self) -> list[str]:
        """Return the splits that are zero-shot sets: all but train, val and the choice sets."""
        others = ("train", "val", *self.choice_sets)
        return [split for split in self.name_list("index.splits") if split not in others]

    @property
    def choice_sets(self) -> list[str]:
        """Return the choice sets of the section `relate`; the one to fit on comes first."""
        relate, splits = self.get("relate", default={"scorers": []}), self.name_list("index.splits")
        sets = relate.get("sets", ()) if isinstance(relate, dict) else ()
        named = [*([relate["train"]] if "train" in relate else []), *(sets if isinstance(sets, list) else ())]
        return [name for name in named if name in splits]

    @property
    def arms(self) -> list[tuple[str, str]]:
        """Return all (student, target) pairs."""
        return [(s, t) for s in self.name_list("distill.students") for t in self.name_list("distill.targets")]

    def select_arms(
        self, student: str | Sequence[str] | None = None, target: str | None = None
    ) -> list[tuple[str, str]]:
        """Return the requested (student, target) pairs, by default all; a student need not be in the parameters.

        Raises:
            UsageError: an invalid name of a student, or a target space that the parameters do not list.
        """
        targets = self.select("distill.targets", target)
        if isinstance(student, str):
            student = [require_name(student, "--student")]
        return [(name, space) for name in student or self.name_list("distill.students") for space in targets]

    def select_folders(
        self, student: str | Sequence[str] | None = None, target: str | None = None, name: str | None = None
    ) -> list[Path]:
        """Return the folder of the run `name` or, without one, those of the requested arms; raises UsageError."""
        arms = self.select_arms(student, target)
        return [self.layout.run(name)] if name else [self.layout.model(*arm) for arm in arms]

    def steps(self, stage: str, items: Iterable[Item], *keys: str) -> Iterator[Item]:
        """Yield the items of a stage; after each, refuse parameters or code that were edited while it ran.

        `keys` are the sections that the stage reads; `{}` in them is the item, or its first part.

        Raises:
            PipelineError: a section or the code of the stage changed since its start.
        """
        code = StageCode.snapshot(stage)
        for item in items:
            yield item
            name = item[0] if isinstance(item, tuple) else item
            self.check_unchanged(*(key.format(name) for key in keys))
            code.record(self.layout)

    def check_unchanged(self, *keys: str) -> None:
        """Refuse to finish a stage whose parameters were edited while it ran.

        DVC records the parameters at the end of a stage, so an edit in between would be recorded for files that were
        made without it.

        Raises:
            PipelineError: a section changed since the start of the stage.
        """
        now = load_params(self.params, self.overrides)
        for key in keys:
            before, after = lookup(self.values, key, {}), lookup(now, key, {})
            if before != after:
                raise PipelineError(
                    f"{self.params}: '{key}' changed while the stage ran, from {before} to {after}. "
                    "The files made are kept in the store; run again to use the new value."
                )


def require_one_arm(option: str, name: str | None, arms: Sequence[object]) -> None:
    """Refuse several arms, or none, with an option that needs one; raises UsageError."""
    if name and len(arms) != 1:
        raise UsageError(f"{option} {name}: one run is one arm, found {len(arms)}. Pass --student and --target.")


def refuse_urls(options: Mapping[str, object]) -> None:
    """Refuse a URL where an option is a path: it would become a folder named `s3:`.

    The message shows only the scheme, because a URL may contain a credential.

    Raises:
        UsageError: the option, and where a URL is allowed.
    """
    for name, value in options.items():
        first = value.parts[0] if isinstance(value, Path) and value.parts else ""
        if first.endswith(":") and first[:-1] in PROTOCOLS:
            raise UsageError(
                f"'{name}': expected a path of a file system, found a URL ({first}//…). Sources, runtime.remote and "
                "--out of exports can be URLs: docs/data.md, docs/scale.md."
            )
