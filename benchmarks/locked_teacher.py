"""The larger photo teacher from beginning to end: an adapted tower, features, words, training, scores.

The image tower is locked while the text tower learns (LiT: frozen_teacher.py); `--adapt` trains it before.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.adapt_tower import LABEL_WEIGHT, adapt_tower
from benchmarks.frozen_features import FeatureSet, cached_features, load_tower, pooled_source
from benchmarks.frozen_pairs import PairSampler
from benchmarks.frozen_scores import (
    discriminant_accuracy,
    feature_accuracy,
    feature_recall,
    labelled_accuracy,
    variance_axes,
)
from benchmarks.frozen_teacher import teacher_config, train, write_config
from benchmarks.imagenet_words import class_numbers
from benchmarks.photo_sets import Photo, class_folders, first, flickr8k, tiny_imagenet
from benchmarks.pseudo_features import invert_classifier, pseudo_features
from benchmarks.styles import STYLES
from cache.fingerprint import fingerprint

KIND_SHARE = 0.2
"""Of captioned photos, with `--styles`, that are told by one word for what their captions name: "a dog"."""


def adapted_weights(arguments: argparse.Namespace) -> Path:
    """Return the file of a tower that was trained to see small photos, and train it if it is not there."""
    side, limit = arguments.side, arguments.limit
    source = pooled_source(arguments.tower, arguments.weights, side)
    identity = fingerprint({"source": source, "limit": limit, "steps": arguments.adapt, "labels": LABEL_WEIGHT})
    out: Path = arguments.out / f"tower-{identity[:12]}.safetensors"
    if out.exists():
        return out
    tower, weights = load_tower(arguments.tower, arguments.weights)
    photos, targets, concepts = [], [], []
    for read, sets in ((flickr8k, arguments.flickr8k), (tiny_imagenet, arguments.tiny_imagenet)):
        found = list(first(read(sets, side), limit))
        folder = arguments.out / "features" / f"{read.__name__}-as-is"
        targets.append(cached_features(tower, found, ("plain",), folder, source).views["plain"])
        photos += [photo.pixels for photo in found]
        concepts += [photo.concept for photo in found]
    labels = np.array([class_numbers().get(concept, -1) for concept in concepts])
    adapt_tower(tower, weights, photos, np.concatenate(targets), labels, out=out, steps=arguments.adapt)
    return out


def train_frozen(arguments: argparse.Namespace) -> None:
    """Train a text tower and a projection on a frozen tower's features, and print what came of it."""
    tower_file = adapted_weights(arguments) if arguments.adapt else arguments.weights
    tower, weights = load_tower(arguments.tower, tower_file)
    source = pooled_source(arguments.tower, tower_file, arguments.side)
    side, limit = arguments.side, arguments.limit
    styles = tuple(STYLES) if arguments.styles else ()

    def features(photos: Iterable[Photo], name: str, *views: str) -> FeatureSet:
        return cached_features(tower, photos, ("plain", *views), arguments.out / "features" / name, source)

    captioned = features(first(flickr8k(arguments.flickr8k, side), limit), "flickr8k", "mirrored", *styles)
    classed = features(first(tiny_imagenet(arguments.tiny_imagenet, side), limit), "tiny", "small", *styles)
    labels = np.array([class_numbers().get(note.concept, -1) for note in classed.notes])
    rows, known = classed.views["plain"], labels >= 0
    fit = invert_classifier(weights["classifier.weight"].double().numpy(), rows[known], labels[known])
    print(f"class means: scale {fit.scale:.2f}, {fit.explained:.2f} of the variance of classes left out explained")
    kind_share = KIND_SHARE if arguments.styles else 0.0
    pseudo = pseudo_features(fit, classed.views)
    sampler = PairSampler(captioned, classed, pseudo, kind_share=kind_share)
    write_config(arguments.out, teacher_config(arguments.tower, side, arguments.dim, width=arguments.width))
    model = train(sampler, weights, arguments.out, arguments.steps, arguments.batch)
    held_out = features(flickr8k(arguments.flickr8k, side, "val"), "val")
    print(f"text to image R@10 on {len(held_out.notes)} images: {feature_recall(model, arguments.out, held_out):.3f}")
    print(f"axes for 99 % of the image variance: {variance_axes(model, captioned)} of {arguments.dim}")
    if arguments.test:
        tested = features(class_folders(arguments.test, side), "test")
        print(f"zero-shot top-1 on {len(tested.notes)} images: {feature_accuracy(model, arguments.out, tested):.3f}")
        print(f"top-1 of a linear discriminant of the kinds: {discriminant_accuracy(pseudo, tested):.3f}")
        print(f"top-1 of a ridge regression with the labels of half: {labelled_accuracy(tested):.3f}")
