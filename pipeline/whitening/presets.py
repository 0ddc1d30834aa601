"""Target spaces by name: one of each method, and the two published recipes as they were published."""

from __future__ import annotations

from pipeline.whitening.methods import METHODS, TargetParams

PUBLISHED: dict[str, TargetParams] = {
    "wclip-kd": TargetParams(method="zca", floor=0.0, eps=1e-5, pre_norm="none", post_norm="l2"),
    "wclip": TargetParams(method="pca", floor=0.0, pre_norm="none"),
}
"""`wclip-kd`, of the study that distilled against whitened targets (farazahmad2004/W_CLIP_KD, notebooks): ZCA of
embeddings as the teacher gave them, 1e-5 added to every eigenvalue, targets on the unit sphere; it used the first
caption of each image only (`moments.captions: first`).

`wclip`, of Whitened CLIP (rbetser/W_CLIP, whitening_code.py): PCA, nothing normalised, no regularisation. Its code
decomposes in float32 with a solver for general matrices; we decompose symmetrically in float64, which gives the
same axes up to signs."""

AUDIT_SPACES: dict[str, TargetParams] = {
    **{method: TargetParams(method=method) for method in METHODS},
    "zca, no floor": TargetParams(method="zca", floor=0.0),
    **PUBLISHED,
}
"""What an audit tries, beside the spaces of the params."""
