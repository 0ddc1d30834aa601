"""Check the files of a project; each check yields one line per fault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cache.atomic import read_checksummed_json
from cache.ensemble import open_store
from cache.errors import CacheError, DamagedError
from cache.fingerprint import sha256
from cache.manifest import CAPTIONS, FOIL_WORDS, FOILS, NAME, OTHERS, PROMPTS, TEXT, WORDS, read_manifest, view_name
from cache.reader import EmbeddingStore
from cache.teachers import TEACHERS, teacher_folders
from pipeline.data.packing.caption_shards import caption_shard_name, require_same_captions
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed
from pipeline.data.text_slice import CARD, WEIGHTS, read_slice
from pipeline.evaluation.model_files import arm_faults, check_arm, read_arm_card
from pipeline.project.errors import PipelineError
from pipeline.project.layout import CARD as ARM_CARD
from pipeline.project.layout import Layout
from pipeline.relations.score_files import check_scorer_history, read_scorer_card, read_scores, student_score_faults
from pipeline.whitening.moments_file import embeddings_digest, load_moments
from pipeline.whitening.spaces import load_space

Faults = Iterator[str]
T = TypeVar("T")
SKIPPED = "skipped.json"
METADATA_FILES = {SKIPPED, NAME}
"""Files next to the shards."""
SLICE = {WEIGHTS, CARD}
"""Files of the slice of the teacher's text tower (`embed.text_slice`)."""


def check_packed(folder: Path) -> Faults:
    """Check a packed split: its manifest, and the size, hash and samples of every shard."""
    packed = open_packed(folder)
    yield from _named(folder, packed.split)
    further = {caption_shard_name(name, number) for name in packed.caption_files for number in range(packed.num_shards)}
    yield from _unexpected_files(folder, {shard.name for shard in packed.shards} | further | METADATA_FILES)
    yield from _faults(partial(_check_skipped, folder))
    for number in range(packed.num_shards):
        yield from _faults(partial(_read_all, packed, number))


def check_embeddings(folder: Path, packed_folder: Path) -> Faults:
    """Check the hash of every file of a split's embeddings, and compare them with the packed split if it exists.

    Shard i of each part must have the keys, captions and labels of packed shard i, in the same order.
    """
    folders = list(teacher_folders(folder).values())
    nested = {f"{path.relative_to(folder).as_posix()}/" for path in folders[1:]}
    for path in folders:
        yield from _check_teacher(path, packed_folder, nested if path == folder else set())


def _check_teacher(folder: Path, packed_folder: Path, nested: set[str]) -> Faults:
    """Check the embeddings of one teacher; those of the others are in separate folders."""
    store = EmbeddingStore.open(folder)
    if folder.parent.name != OTHERS:
        yield from _named(folder, store.manifest.split)
    paths = [path for part in store.manifest.parts for path in store.shard_paths(part)]
    files = {path.relative_to(folder).as_posix() for path in paths} | METADATA_FILES | SLICE | {TEACHERS}
    yield from _unexpected_files(folder, files, tuple(nested))
    if any((folder / name).exists() for name in SLICE):
        yield from _faults(partial(read_slice, folder, store.manifest.teacher))
    packed = _load_if_intact(open_packed, packed_folder)
    if packed:
        yield from _faults(partial(store.require_source, packed=packed.digest))
        same = partial(require_same_captions, store.manifest, packed.folder, packed.caption_files)
        for name in sorted({*packed.caption_files, *store.manifest.caption_files} if _reads(store) else ()):
            yield from _faults(partial(same, name))
    for number in range(store.num_shards):
        yield from _faults(partial(_agree, store, packed, number))
    if store.has_prompts:
        yield from _faults(partial(_agree_prompts, store, packed))


def _reads(store: EmbeddingStore) -> bool:
    """Return whether captions were embedded here: an import has its own, or none."""
    return store.has_captions and "imported" not in store.manifest.source


def check_moments(layout: Layout) -> Faults:
    """Check the moments, and that they were computed from the present embeddings."""
    stored, folder = load_moments(layout.moments), layout.embeddings("train")
    manifest = _load_if_intact(read_manifest, folder)
    if manifest is None:
        return
    digests = [(stored.embeddings_digest, embeddings_digest(manifest))]
    for name, other in stored.others.items():
        try:
            digests.append((other.embeddings_digest, embeddings_digest(open_store(folder, other.teacher).manifest)))
        except CacheError as error:
            yield f"{layout.moments}: of '{name}': {error}"
    for recorded, expected in digests:
        if recorded != expected:
            yield f"{layout.moments}: of embeddings {recorded}, found {expected}. Run `dvc repro moments`."


def check_target(layout: Layout, path: Path) -> Faults:
    """Check a target space, and that it was fitted to the present moments."""
    space = load_space(path)
    yield from _named(path, space.name)
    moments = _load_if_intact(load_moments, layout.moments)
    digests = [each.embeddings_digest for each in (moments, *moments.others.values())] if moments else []
    if moments and space.embeddings_digest not in digests:
        yield (
            f"{path}: fitted on embeddings {space.embeddings_digest}, the moments are of {', '.join(digests)}. "
            "Run `dvc repro whiten`."
        )


def check_scorer(folder: Path) -> Faults:
    """Check a relation scorer: its card, the hash and shapes of its weights, and its other files."""
    from pipeline.relations.scorer_files import load_scorer  # imports torch

    yield from _faults(partial(load_scorer, folder))
    if card := _load_if_intact(read_scorer_card, folder):
        yield from _faults(partial(check_scorer_history, folder, card))
        yield from _faults(partial(read_scores, folder))


def check_student(layout: Layout, folder: Path) -> Faults:
    """Check an arm: its card and name, its other files, and that its target space is the present one."""
    card = read_arm_card(folder)
    if card is None:
        return
    yield from _faults(partial(check_arm, folder, card, layout))
    yield from arm_faults(folder, card)
    yield from student_score_faults(folder, card, layout.models)
    target = layout.target(str(card.get("target")))
    space = _load_if_intact(load_space, target)
    if space and space.fingerprint != (former := card.get("target_fingerprint")):
        yield (
            f"{folder / ARM_CARD}: learnt target space {former}, but {target} is {space.fingerprint}. Distil it again."
        )


def collect_faults(check: Callable[[], Faults]) -> list[str]:
    """Return the faults that a check yields; an error that stops the check is the last one."""
    faults: list[str] = []
    try:
        for fault in check():
            faults.append(fault)
    except (CacheError, PipelineError, OSError) as error:
        faults.append(str(error))
    return faults


def _agree(store: EmbeddingStore, packed: PackedSplit | None, number: int) -> None:
    """Open shard `number` of every part, and compare keys, captions and labels with the packed samples."""
    parts = {name: store.shards(name)[number] for name in store.manifest.sharded_parts}
    first = parts[view_name(0)]
    # The check of the packed shard has already hashed it.
    samples = list(packed.read(number, "size")) if packed and number < packed.num_shards else None
    keys = first.keys if samples is None else tuple(sample.key for sample in samples)
    for name, shard in parts.items():
        if name == FOILS:  # by caption, not by image
            if samples is not None:
                question_keys = [f"{sample.key}#{i}" for sample in samples for i in range(len(sample.choices))]
                _same(store, (name, number, "keys"), shard.keys, question_keys)
        else:
            _same(store, (name, number, "keys"), shard.keys, keys)
    if samples is not None:
        _agree_with_samples(store, parts, samples, number)
    for name in packed.caption_files if packed and samples else ():
        if packed and (shard := parts.get(part := f"{CAPTIONS}{name}")):
            texts = [_hash(text) for own in packed.read_captions(name, number, "size")[1] for text in own]
            _same(store, (part, number, "captions"), shard.caption_sha.astype(str).tolist(), texts)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _agree_with_samples(store: EmbeddingStore, parts: dict[str, Any], samples: list[Sample], number: int) -> None:
    captions = [_hash(text) for sample in samples for text in sample.captions]
    if _reads(store):
        _same(store, (TEXT, number, "captions"), parts[TEXT].caption_sha.astype(str).tolist(), captions)
    foils = [_hash(text) for sample in samples for choice in sample.choices for text in choice.foils]
    for name, texts in ((WORDS, captions), (FOILS, foils), (FOIL_WORDS, foils)):
        if name in parts:
            _same(store, (name, number, "captions"), parts[name].caption_sha.astype(str).tolist(), texts)
    labels = parts[view_name(0)].label
    if labels is not None:
        _same(store, (view_name(0), number, "labels"), labels.tolist(), [sample.label for sample in samples])


def _agree_prompts(store: EmbeddingStore, packed: PackedSplit | None) -> None:
    prompts = store.prompts()
    for name in ("classes", "templates") if packed else ():
        _same(store, (PROMPTS, 0, name), getattr(prompts, name), getattr(packed, name))


def _same(store: EmbeddingStore, where: tuple[str, int, str], stored: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise PipelineError with the first pair that differs."""
    if list(stored) == list(expected):
        return
    part, number, what = where
    pairs = [(a, b) for a, b in zip(stored, expected, strict=False) if a != b]
    text = f"found {str(pairs[0][0])[:24]}, expected {str(pairs[0][1])[:24]}" if pairs else "another number of them"
    raise PipelineError(
        f"{store.shard_paths(part)[number]}: other {what} than its packed shard: {text}. Run `dvc repro embed`."
    )


def _check_skipped(folder: Path) -> None:
    expected = read_checksummed_json(folder / NAME).get("skipped_sha256")  # splits of an earlier version lack it
    if expected is not None and (digest := sha256(folder / SKIPPED)) != expected:
        raise DamagedError(f"{folder / SKIPPED}: SHA-256 {digest[:12]}, {NAME} says {expected[:12]}. Run `pack` again.")


def _read_all(packed: PackedSplit, number: int) -> None:
    keys = tuple(sample.key for sample in packed.read(number))
    for name in packed.caption_files:
        if packed.read_captions(name, number)[0] != keys:
            path = packed.folder / caption_shard_name(name, number)
            raise DamagedError(f"{path}: of other samples than its shard. Run `pack` again.")


def _load_if_intact(read: Callable[[Path], T], path: Path) -> T | None:
    """Return the content of a file, or None if it is missing or damaged; another check reports that."""
    try:
        return read(path)
    except CacheError:
        return None


def _faults(check: Callable[[], object]) -> Faults:
    try:
        check()
    except (CacheError, PipelineError) as error:
        yield str(error)


def _named(path: Path, name: str) -> Faults:
    if path.name.removesuffix(".h5") != name:
        yield f"{path}: holds '{name}': it was renamed or lies in another's place. Move it back, or make it again."


def _unexpected_files(folder: Path, listed: set[str], elsewhere: tuple[str, ...] = ()) -> Faults:
    """Return files that no manifest lists (an unfinished write, a renamed shard); `elsewhere` is checked separately."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in listed and not name.startswith(elsewhere):
            yield f"{path}: not in the manifest. Delete it."
