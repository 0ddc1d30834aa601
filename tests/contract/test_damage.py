"""Nothing of a finished project is damaged silently: whoever reads it next says so in a line, or nothing changes."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from tests.contract.damage import OPTIONAL, Outcomes, Range, exchange, flip, pairs, rename, truncate


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> Range:
    return Range(tmp_path_factory.mktemp("damage"), tiny_teacher)


@pytest.fixture
def quick_target(tmp_path: Path, tiny_teacher: str) -> Range:
    """A project of one arm and no graph: what it takes to run it is most of the test."""
    return Range(tmp_path, tiny_teacher, quick=True)


def damage(target: Range, flips: int, cuts: int, seed: int, verified: int) -> Outcomes:
    """Flip bits and cut files, each file in turn, at random places."""
    found, random = Outcomes(), np.random.default_rng(seed)
    names = [target.files[i] for i in random.permutation(len(target.files))]
    for number in range(flips + cuts):
        name, at, bit = names[number % len(names)], float(random.random()), int(random.integers(8))
        harm = flip(name, at, bit) if number < flips else truncate(name, at)
        title = f"{'flip' if number < flips else 'cut'} {name} at {at:.4f} bit {bit}"
        target.shoot(title, (name,), harm, found)
        if number % max(1, (flips + cuts) // verified) == 0:
            target.verified(title, harm, found)
    return found


def check(found: Outcomes) -> None:
    print(
        f"{found.count} damages: {found.detected} detected, {len(found.without_effect)} without effect, "
        f"{len(found.silent)} silent, {len(found.tracebacks)} tracebacks, {len(found.unseen)} not seen by verify"
    )
    for line in [*found.silent, *found.tracebacks, *found.unseen]:
        print(line)
    assert found.silent == []
    assert found.tracebacks == []
    assert found.unseen == []


def test_damage_is_detected_by_the_next_reader_or_changes_nothing(quick_target: Range) -> None:
    found = damage(quick_target, 9, 3, seed=0, verified=3)
    check(found)
    assert found.detected >= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_thousand_flipped_bits_and_two_hundred_cuts_are_detected_or_change_nothing(target: Range, seed: int) -> None:
    """In five parts, each of which goes through all files."""
    found = damage(target, 200, 40, seed=seed, verified=60)
    check(found)
    assert found.count == 240
    assert found.detected > 120


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_exchanged_files_and_folders_are_detected_or_change_nothing(target: Range) -> None:
    found = Outcomes()
    for one, other in pairs(target.whole):
        names = tuple(name for name in target.files if name.startswith((one, other)))
        if (target.whole.root / one).is_file():
            names = (one, other)
        target.shoot(f"exchange {one} and {other}", names, exchange(one, other), found)
    check(found)
    assert found.detected > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_renamed_files_are_detected_or_change_nothing(target: Range) -> None:
    found = Outcomes()
    for name in (name for name in target.files if not any(fnmatch(name, one) for one in OPTIONAL)):
        target.shoot(f"rename {name}", (name,), rename(name), found)
    check(found)
    assert found.detected > 50
