"""Auxiliary gradients let through only where they do not oppose the main ones."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks
from keras_mtl.core.roles import main_tasks

GATES = ("hard", "soft")


@keras.saving.register_keras_serializable(package="keras_mtl")
class CosineGate(GramianBalancing):
    """Lets auxiliary gradients through where they do not oppose the main ones.

    With m the sum of the main tasks' gradients, the direction is m plus, for each auxiliary task,
    its gradient g times a gate: 1 where cos(g, m) >= 0 and 0 where it is below, or, softly,
    max(cos(g, m), 0). So an auxiliary task never turns the step against the main ones, and the
    sequence converges to a stationary point of the main loss.

    Main tasks are those that are not `auxiliary`; among gradients given as a plain array the
    first. Where no main task takes part, or m is 0, there is nothing to oppose: hard gates are
    open, soft ones closed. The direction is as long as a sum, and a loss weighting set before it
    keeps its say. Heads of auxiliary tasks learn whether the gate is open or not.

    Args:
        gate: `"hard"` or `"soft"`: the unweighted and the weighted version of the paper.
        scope: `"parameters"` takes cosines over all shared variables, `"features"` over the
            tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one look at the cosines to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        ValueError: If `gate` or `scope` is not one of the two.

    Example:

    >>> gradients = [[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]
    >>> keras_mtl.balancing.CosineGate()(gradients)
    [2.0, 1.0]
    >>> keras_mtl.balancing.CosineGate("soft")(gradients)
    [1.70711, 0.70711]

    Reference:
        Du, Czarnecki, Jayakumar, Farajtabar, Pascanu, Lakshminarayanan 2018, Adapting auxiliary
        losses using gradient similarity, algorithms 1 and 2, https://arxiv.org/abs/1812.02224.
        Differs from the paper: several main tasks count by the sum of their gradients.
    """

    def __init__(
        self,
        gate: str = "hard",
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        checks.one_of("gate", gate, GATES)
        self.gate = gate

    def solve(self, gramian: Any, active: Any) -> Any:
        # Squares may leave float32.
        wide = ops.cast(gramian, "float64")
        main = ops.cast(main_tasks(self.roles, self.num_tasks), "float64")
        main = main * ops.cast(active, "float64")
        products = ops.matmul(wide, main)
        square = ops.maximum(ops.sum(main * products), 0.0)
        lengths = ops.sqrt(ops.maximum(ops.diagonal(wide), 0.0)) * ops.sqrt(square)
        cosines = products / ops.where(lengths > 0, lengths, 1.0)
        opened = cosines >= 0 if self.gate == "hard" else ops.maximum(cosines, 0.0)
        return ops.where(main > 0, 1.0, ops.cast(opened, "float64"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gate": self.gate}
