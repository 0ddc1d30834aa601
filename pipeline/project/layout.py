"""Folders and files of a project."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.project.errors import UsageError

_NAME = re.compile(r"[^\W_][\w.+=@-]*")
MAX_NAME_BYTES = 100
"""A folder's name may have 255 bytes: arms join two names, and temporary files add a suffix."""
WEIGHTS, CARD, HISTORY = "student.safetensors", "student.json", "history.csv"
"""Files that `distill` writes into the folder of an arm, the card last."""
METRICS, TABLES, EVALUATION = "metrics.json", "tables", "evaluation.json"
"""Files that `evaluate` adds; the last one has the hashes of the others."""
PROFILE = "profile.json"
"""File that `profile` adds."""
PREPROCESS = "preprocess.json"
"""Description of the model in an exported folder."""


def require_name(name: str, where: str) -> str:
    """Return a valid name of a split, target space, student or run, which becomes a folder and a command-line argument.

    Raises:
        UsageError: it is too long, begins with a sign, or has a space, a slash, a quote or another such character.
    """
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise UsageError(f"{where}: a name of {len(name)} characters ('{name[:40]}…'): use a shorter one")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: '{name}' is no name: expected letters, digits and . _ - + = @, the first no sign")
    return name


@dataclass(frozen=True)
class Layout:
    """The folders of a project below `root`, by the names that dvc.yaml uses."""

    root: Path = Path()

    def index(self, split: str) -> Path:
        """Return the file of names and sizes of a split."""
        return self.root / "data" / "index" / f"{split}.json"

    def packed(self, split: str) -> Path:
        """Return the folder of packed shards of a split."""
        return self.root / "data" / "packed" / split

    def embeddings(self, split: str) -> Path:
        """Return the folder of a split's cached embeddings."""
        return self.root / "data" / "embeddings" / split

    @property
    def moments(self) -> Path:
        """Return the file of counts, means and co-moments."""
        return self.root / "data" / "moments.h5"

    def target(self, target: str) -> Path:
        """Return the file of a fitted target space."""
        return self.root / "data" / "targets" / f"{target}.h5"

    @property
    def code(self) -> Path:
        """Return the file with the identity of the code, for DVC."""
        return self.root / "data" / "code.json"

    def model(self, student: str, target: str) -> Path:
        """Return the folder of an arm: a student distilled against a target space."""
        return self.models / f"{student}-{target}"

    @property
    def models(self) -> Path:
        """Return the folder of all arms."""
        return self.root / "models"

    def scorer(self, name: str) -> Path:
        """Return the folder of a scorer of images against captions."""
        return self.root / "models" / f"relate-{name}"

    @property
    def scorer_records(self) -> Path:
        """Return the folder of the records by which DVC sees that a scorer changed; empty without scorers.

        `evaluate` depends on the folder, because dvc.yaml cannot name scorers that a project may not have.
        """
        return self.root / "data" / "scorers"

    def scorer_record(self, name: str) -> Path:
        """Return the record of one scorer."""
        return self.scorer_records / f"{name}.json"

    def run(self, name: str) -> Path:
        """Return the folder of a named run; raises UsageError if the name is invalid."""
        require_name(name, "--name")
        return self.root / "runs" / name

    @property
    def comparisons(self) -> Path:
        """Return the folder of the runs of all comparisons."""
        return self.root / "runs" / "compare"

    @property
    def audit(self) -> Path:
        """Return the folder of an audit's tables and plots."""
        return self.report.parent / "audit"

    @property
    def report(self) -> Path:
        """Return the report, one self-contained file."""
        return self.root / "report" / "index.html"

    @property
    def exports(self) -> Path:
        """Return the folder of exports."""
        return self.root / "exports"

    @property
    def store(self) -> Path:
        """Return the folder in which finished work survives DVC's deletions."""
        return self.root / "data" / ".store"

    def check_root(self) -> None:
        """Refuse a root that is a file, is below one, or cannot exist.

        Raises:
            UsageError: it is.
        """
        for path in (self.root, *self.root.parents):
            try:
                kind = path.stat().st_mode
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UsageError(f"--root {str(self.root)[:80]}: cannot be a folder: {error.strerror}") from None
            if not stat.S_ISDIR(kind):
                raise UsageError(f"--root {self.root}: {path} is no folder")
            return
