"""Scores of a teacher on a frozen tower, from cached features: zero-shot, retrieval, number of axes; and two bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifierCV
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from benchmarks.frozen_features import FeatureSet
from benchmarks.imagenet_words import KINDS, imagenet_classes
from benchmarks.pseudo_features import PseudoFeatures
from pipeline.data.prompts import TEMPLATES


@torch.no_grad()
def feature_accuracy(model: open_clip.CLIP, out: Path, tested: FeatureSet) -> float:
    """Return top-1 over the classes of photos whose features are known, with the templates of CIFAR-10."""
    classes = sorted({photo.concept for photo in tested.notes})
    templates = [lambda c, t=t: t.format(c=c) for t in TEMPLATES["cifar10"]]
    head = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer(f"local-dir:{out}"), classes, templates)
    rows = F.normalize(model.visual.head(torch.from_numpy(tested.views["plain"])), dim=-1)
    labels = torch.tensor([classes.index(photo.concept) for photo in tested.notes])
    return ((rows @ head).argmax(dim=1) == labels).float().mean().item()


@torch.no_grad()
def feature_recall(model: open_clip.CLIP, out: Path, held_out: FeatureSet, k: int = 10) -> float:
    """Return the share of captions whose photo is among the k nearest: text to image."""
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    rows = F.normalize(model.visual.head(torch.from_numpy(held_out.views["plain"])), dim=-1)
    owners = torch.tensor([i for i, photo in enumerate(held_out.notes) for _ in photo.words])
    captions = [caption for photo in held_out.notes for caption in photo.words]
    text = torch.cat([model.encode_text(tokenizer(captions[i : i + 250]), normalize=True)
                      for i in range(0, len(captions), 250)])  # fmt: skip
    scores = text @ rows.T
    better = (scores > scores[torch.arange(len(owners)), owners][:, None]).sum(dim=1)
    return (better < k).float().mean().item()


@torch.no_grad()
def variance_axes(model: open_clip.CLIP, photos: FeatureSet, share: float = 0.99) -> int:
    """Return how many principal axes hold a share of the variance of the unit embeddings."""
    rows = F.normalize(model.visual.head(torch.from_numpy(photos.views["plain"])), dim=-1).double().numpy()
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    return int((np.cumsum(values) < share * values.sum()).sum()) + 1


def discriminant_accuracy(pseudo: PseudoFeatures, tested: FeatureSet, draws: int = 1000) -> float:
    """Return top-1 of linear discriminant analysis over the kinds of tested photos, fitted to features drawn for them.

    These are the features from which the text tower learns the words of these kinds. Where the two scores are close,
    more steps of the text tower gain little: the image tower has to see more.

    Raises:
        KeyError: a class is none of KINDS.
    """
    kinds = {word: kind for kind, (words, _) in KINDS.items() for word in words}
    aims = [kinds[photo.concept] for photo in tested.notes]
    rng, classes = np.random.default_rng(0), imagenet_classes()
    labels = np.array(sorted(set(aims))).repeat(draws)
    members = {kind: [n for n, words in enumerate(classes) if words.kind == kind] for kind in set(aims)}
    rows, _ = pseudo.draw([int(rng.choice(members[kind])) for kind in labels], rng)
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(rows, labels)
    return float(fitted.score(tested.views["plain"], aims))


def labelled_accuracy(tested: FeatureSet) -> float:
    """Return top-1 on every other photo by ridge regression on the labels of those between: what the features allow.

    Its penalty is chosen by leave-one-out over the photos with labels.
    """
    rows, labels = tested.views["plain"], np.array([photo.concept for photo in tested.notes])
    penalties = rows.var(axis=0).mean() * len(rows) * np.array([1e-3, 1e-2, 1e-1, 1.0])
    fitted = RidgeClassifierCV(alphas=penalties).fit(rows[::2], labels[::2])
    return float(fitted.score(rows[1::2], labels[1::2]))
