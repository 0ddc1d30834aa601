"""Fit a target space y = (x − μ) W from the moments: one eigendecomposition."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.project.layout import Layout
from pipeline.whitening.heads import fit_target_space
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.spaces import TargetParams, fit_warnings, save_space

__all__ = ["TargetParams", "whiten"]


def whiten(target: str, params: TargetParams, layout: Layout) -> Path:
    """Fit one target space to data/moments.h5 and write data/targets/<target>.h5.

    Raises:
        CacheError: the moments are missing or damaged.
        UsageError: the moments lack this pre_norm or teacher, or are not sufficient for this space.
    """
    stored = load_moments(layout.moments)
    moments, path = stored.named(*params.teachers).for_norm(params.pre_norm), layout.target(target)
    for line in fit_warnings(target, params, moments):
        print(line, file=sys.stderr)
    save_space(path, fit_target_space(target, params, stored))
    return path
