"""Hadamard matrices: entries ±1, orthogonal rows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pipeline.project.errors import UsageError


def hadamard(order: int) -> Float[np.ndarray, "d d"]:
    """Return a Hadamard matrix, by the constructions of Sylvester, Paley and Kronecker.

    They cover all embedding dimensions of CLIP models (512, 640, 768, 1024, …) among the multiples of 4 up to 2048.

    Raises:
        UsageError: no construction gives this order.
    """
    matrix = _construct(order)
    if matrix is None:
        raise UsageError(
            f"no Hadamard matrix of order {order} is known to this program: `phi-s` needs an embedding width "
            "of 2 or a multiple of 4. Use `method: scale`, which differs from it by a rotation only."
        )
    return matrix


def _construct(order: int) -> Float[np.ndarray, "d d"] | None:
    if order in (1, 2):
        return np.array([[1.0]]) if order == 1 else np.array([[1.0, 1.0], [1.0, -1.0]])
    if order % 4 or order < 1:
        return None
    if _is_prime(order - 1):
        return _paley_one(order - 1)
    if _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        return _paley_two(order // 2 - 1)
    for left in range(2, int(order**0.5) + 1):
        if order % left == 0:
            a, b = _construct(left), _construct(order // left)
            if a is not None and b is not None:
                return np.kron(a, b)
    return None


def _paley_one(q: int) -> Float[np.ndarray, "d d"]:
    """Return I + [[0, 1ᵀ], [−1, Q]], of order q + 1, for a prime q ≡ 3 (mod 4) (Paley, 1933)."""
    skew = np.zeros((q + 1, q + 1))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, _jacobsthal(q)
    return skew + np.eye(q + 1)


def _paley_two(q: int) -> Float[np.ndarray, "d d"]:
    """Return C ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]], of order 2(q + 1), for a prime q ≡ 1 (mod 4)."""
    conference = np.zeros((q + 1, q + 1))
    conference[0, 1:], conference[1:, 0], conference[1:, 1:] = 1, 1, _jacobsthal(q)
    return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])


def _jacobsthal(q: int) -> Float[np.ndarray, "q q"]:
    """Return Q with Q[a, b] = 1 if a − b is a nonzero square modulo q, −1 if it is not a square, 0 on the diagonal."""
    character = np.full(q, -1.0)
    character[np.arange(1, q) ** 2 % q] = 1.0
    character[0] = 0.0
    table: np.ndarray = character[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]
    return table


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))
