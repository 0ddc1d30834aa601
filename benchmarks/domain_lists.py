"""Write lists that split a folder of domains into training and validation images, if none were published.

    python benchmarks/domain_lists.py PACS lists
    python benchmarks/domain_lists.py PACS lists --every 5      a fifth of each class, for a small machine

Every tenth image of each class, in the order of their names, is for validation. The lists are called as JiGen's are
(`<domain>_train_kfold.txt`, `<domain>_crossval_kfold.txt`), so that parameters written for those take these.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

VALIDATION_STRIDE = 10


def write_lists(folder: Path, out: Path, every: int = 1) -> dict[str, tuple[int, int]]:
    """Write two lists for each domain below a folder, of every so many images; return how many names each pair has."""
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for domain in sorted(path for path in folder.iterdir() if path.is_dir()):
        lists: dict[str, list[str]] = {"train": [], "crossval": []}
        for number, label in enumerate(sorted(path for path in domain.iterdir() if path.is_dir()), start=1):
            for position, image in enumerate(sorted(label.iterdir())[::every]):
                part = "crossval" if position % VALIDATION_STRIDE == VALIDATION_STRIDE - 1 else "train"
                lists[part].append(f"{domain.name}/{label.name}/{image.name} {number}")
        for part, names in lists.items():
            (out / f"{domain.name}_{part}_kfold.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        counts[domain.name] = (len(lists["train"]), len(lists["crossval"]))
    return counts


def main(argv: Sequence[str] | None = None) -> None:
    """Write the lists of a folder and print their lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="<domain>/<class>/<image>")
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1, help="list every N-th image of each class alone")
    arguments = parser.parse_args(argv)
    for domain, (training, validation) in write_lists(arguments.folder, arguments.out, arguments.every).items():
        print(f"{domain}: {training} for training, {validation} for validation")


if __name__ == "__main__":
    main()
