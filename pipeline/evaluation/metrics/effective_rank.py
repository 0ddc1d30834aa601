"""Effective ranks, isotropy and dead dimensions of a set of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SHARES = (0.9, 0.95, 0.99)
DEAD = 1e-6
"""A dimension with a variance below this fraction of the mean is dead."""


@dataclass(frozen=True)
class Spectra:
    """Spectra of a set of rows, centered and uncentered."""

    eigenvalues: Float[np.ndarray, " d"]
    """Eigenvalues of the covariance, largest first."""
    singular: Float[np.ndarray, " r"]
    """Singular values of the uncentered rows."""
    variances: Float[np.ndarray, " d"]
    """Variances of the coordinates."""

    def summary(self) -> dict[str, float]:
        """Return every measure by name; ranks are between 1 and d, isotropies between 0 and 1."""
        shares = {
            f"dims_{share:.0%}".rstrip("%"): float(components_for_variance(self.eigenvalues, share)) for share in SHARES
        }
        return {
            "entropy_rank": entropy_rank(self.eigenvalues),
            "participation_ratio": participation_ratio(self.eigenvalues),
            "rankme": entropy_rank(self.singular),
            "rankme_centered": entropy_rank(np.sqrt(self.eigenvalues)),
            "isoscore": isoscore(self.eigenvalues),
            "dead_dims": float(np.sum(self.variances < DEAD * self.variances.mean())),
            **shares,
        }


def row_spectra(rows: Float[np.ndarray, "n d"]) -> Spectra:
    """Return the spectra of rows. At most n − 1 eigenvalues are nonzero, so compare only at equal n."""
    wide = rows.astype(np.float64)
    centered = wide - wide.mean(axis=0)
    values = np.linalg.eigvalsh(centered.T @ centered / max(len(rows) - 1, 1))[::-1]
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(wide.T @ wide)[::-1], 0))
    return Spectra(np.maximum(values, 0), singular, centered.var(axis=0))


def entropy_rank(values: Float[np.ndarray, " k"]) -> float:
    """Return exp of the entropy of values divided by their sum.

    Of eigenvalues, it is the effective rank of Roy & Vetterli (2007); of singular values, RankMe (Garrido et al.,
    2023), whose original does not center.
    """
    share = values / values.sum()
    used = share[share > 0]
    return float(np.exp(-np.sum(used * np.log(used))))


def participation_ratio(eigenvalues: Float[np.ndarray, " d"]) -> float:
    """Return (Σλ)²/Σλ²."""
    return float(eigenvalues.sum() ** 2 / np.sum(eigenvalues**2))


def isoscore(eigenvalues: Float[np.ndarray, " d"]) -> float:
    """Return IsoScore: 1 for equal variance along all axes, 0 if one axis has all variance.

    σ̂ = √d λ/‖λ‖, δ = ‖σ̂ − 1‖/√(2(d − √d)), φ = (d − δ²(d − √d))²/d², ι = (dφ − 1)/(d − 1)
    (Rudman et al., 2022).
    """
    d = len(eigenvalues)
    scaled = np.sqrt(d) * eigenvalues / np.linalg.norm(eigenvalues)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    share = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d**2
    return float((d * share - 1) / (d - 1))


def partition_ratio(rows: Float[np.ndarray, "n d"]) -> float:
    """Return min Z(c)/max Z(c) over eigenvectors ±c, Z(c) = Σ exp(c·x): 1 for isotropy (Mu & Viswanath, 2018)."""
    wide = rows.astype(np.float64)
    along = wide @ np.linalg.eigh(wide.T @ wide)[1]
    sums = np.concatenate([np.exp(along).sum(axis=0), np.exp(-along).sum(axis=0)])
    return float(sums.min() / sums.max())


def components_for_variance(eigenvalues: Float[np.ndarray, " d"], share: float) -> int:
    """Return the number of axes that hold a given fraction of the variance."""
    explained = np.cumsum(eigenvalues) / eigenvalues.sum()
    return min(int(np.searchsorted(explained, share - 1e-12)) + 1, len(explained))
