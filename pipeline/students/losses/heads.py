"""A head for each of several teachers on one trunk: each learns by its own losses, in its own targets' units."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.students.losses.objective import BatchTargets, Objective, StudentOutputs
from pipeline.whitening.spaces import Head


class HeadsObjective(Objective):
    """The mean of the heads' objectives.

        L = 1/T Σ_i Σ_loss w_loss L_loss(y_i, t_i; σ_i²)

    Each head's errors are counted in the variance of its own targets (RADIO's balancing; Ranzinger et al., "PHI-S",
    2024), so that no teacher weighs more for having a larger spread. Terms are called `fd_1`, `fd_2`, …
    """

    def __init__(self, objectives: Sequence[Objective], heads: Sequence[Head]) -> None:
        nn.Module.__init__(self)
        self.params = objectives[0].params
        self.objectives = nn.ModuleList(objectives)
        self.heads = tuple(heads)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        each = [objective.params.weights for objective in self._each()]
        return {f"{name}_{i}": w / len(each) for i, own in enumerate(each, 1) for name, w in own.items()}

    def forward(self, said: StudentOutputs, wanted: BatchTargets) -> dict[str, Float[Tensor, ""]]:
        """Return each head's losses, unweighted."""
        found: dict[str, Float[Tensor, ""]] = {}
        end = 0
        for number, (head, objective) in enumerate(zip(self.heads, self._each(), strict=True), 1):
            block, end = slice(end, end + head.dim), end + head.dim
            own = objective(_outputs(said, block), _targets(wanted, block, head.reads_text))
            found |= {f"{name}_{number}": term for name, term in own.items()}
        return found

    def _each(self) -> list[Objective]:
        return list(self.objectives)  # type: ignore[arg-type]  # a ModuleList gives modules


def _outputs(said: StudentOutputs, block: slice) -> StudentOutputs:
    return StudentOutputs(said.image[:, block], None, None if said.masked is None else said.masked[:, block])


def _targets(wanted: BatchTargets, block: slice, reads_text: bool) -> BatchTargets:
    text, bank = (None if rows is None or not reads_text else rows[:, block] for rows in (wanted.text, wanted.bank))
    return BatchTargets(wanted.image[:, block], text, bank, None if bank is None else wanted.bank_mask)
