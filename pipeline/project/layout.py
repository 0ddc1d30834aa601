"""Where everything of a project lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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

    def model(self, student: str, target: str) -> Path:
        """Return the folder of an arm: a student distilled against a target space."""
        return self.root / "models" / f"{student}-{target}"

    def run(self, name: str) -> Path:
        """Return the folder of a run made by hand under a name of its own."""
        return self.root / "runs" / name

    @property
    def report(self) -> Path:
        """Return the report, one self-contained file."""
        return self.root / "report" / "index.html"

    @property
    def exports(self) -> Path:
        """Return the folder of what leaves the project: models for devices, pages for browsers."""
        return self.root / "exports"

    @property
    def store(self) -> Path:
        """Return the folder in which finished work survives DVC's deletions."""
        return self.root / "data" / ".store"
