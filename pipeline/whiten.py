"""Fit a target space y = (x − μ) W from the moments: one eigendecomposition."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.project.layout import Layout
from pipeline.whitening.heads import fit_heads
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.spaces import TargetParams, fit_space, fit_warnings, save_space

__all__ = ["TargetParams", "whiten"]


def whiten(target: str, params: TargetParams, layout: Layout) -> Path:
    """Fit one target space to data/moments.h5 and write data/targets/<target>.h5.

    Raises:
        CacheError: the moments are missing or damaged.
        UsageError: the moments lack this pre_norm or teacher, or are not sufficient for this space.
    """
    stored = load_moments(layout.moments)
    measured = stored.named(*params.teachers)
    moments, path = measured.for_norm(params.pre_norm), layout.target(target)
    for line in fit_warnings(target, params, moments):
        print(line, file=sys.stderr)
    if params.combine == "heads":
        members = [stored.named(name).for_norm(params.pre_norm) for name in params.teachers]
        save_space(path, fit_heads(target, params, members, measured.teacher, measured.embeddings_digest))
    else:
        save_space(path, fit_space(target, params, moments, measured.teacher, measured.embeddings_digest))
    return path
