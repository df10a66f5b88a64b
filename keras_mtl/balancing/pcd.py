"""The main gradient, bent as little as lets every auxiliary task get on."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks, solvers
from keras_mtl.core.roles import main_tasks

# Of what a constraint asks for, how much rounding may be missing, by the Gramian's dtype.
ROUNDING = {"float64": 1e-8}
LOOSE = 1e-4


@keras.saving.register_keras_serializable(package="keras_mtl")
class PCD(GramianBalancing):
    """Descends along the main gradient, bent only as far as auxiliary tasks need.

    With normalized gradients u, of which u_1 is the main one, the direction is the d nearest to
    u_1 with u_j . d >= tau |u_j|^2 for every auxiliary task j: each gets at least the part tau of
    what a step along its own gradient would give it. So d = u_1 + sum_j mu_j u_j with mu_j >= 0,
    and mu_j = 0 where u_1 is enough. It is then given the length of the main gradient. A gradient
    is normalized by the root of a moving average of its squared length.

    Main tasks are those that are not `auxiliary`; among gradients given as a plain array the
    first. Several count by the sum of their gradients. Where that is 0 the direction is 0; where
    no main task takes part, the auxiliary gradients are summed. Where no direction fulfils all
    constraints (only with two auxiliary tasks or more) the main gradient is followed. Steps are as
    long as a sum of the main gradients.

    Args:
        tau: Float in [0, 1]. The part of its own progress that each auxiliary task must get; 0
            only keeps it from getting worse.
        beta: Float in [0, 1). The part of the old average of squared lengths.
        epsilon: Float > 0. Added to the average.
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If a number is none.
        ValueError: If one is out of its range, or `scope` is neither of the two.

    Example:

    >>> keras_mtl.balancing.PCD(tau=0.0)([[1.0, 0.0], [-1.0, 1.0]])
    [0.70711, 0.70711]
    >>> keras_mtl.balancing.PCD(tau=0.0)([[1.0, 0.0], [1.0, 1.0]])
    [1.0, 0.0]

    Reference:
        Varam, AlHajri 2026, Not all objectives are born equal: priority-constrained descent for
        hierarchical multi-objective optimization, definitions 4.1 and 4.5 and algorithm 1,
        https://arxiv.org/abs/2606.29521; the defaults are those of the authors' code,
        https://github.com/DaraVaram/priority-constrained-descent.
        Differs from the paper: an active-set solver takes the place of an enumeration of sets, and
        several main tasks and absent ones are taken as said above.
    """

    weights_remark = (
        "auxiliary gradients are normalized, which undoes the weights of auxiliary tasks in the "
        "long run. `tau` of PCD says how much they count."
    )

    def __init__(
        self,
        tau: float = 0.02,
        beta: float = 0.999,
        epsilon: float = 1e-8,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self.tau = checks.finite_number("tau", tau, minimum=0, maximum=1)
        self.beta = checks.finite_number("beta", beta, minimum=0, maximum=1)
        self.epsilon = checks.positive_number("epsilon", epsilon)
        if self.beta == 1:
            raise ValueError("`beta` must be below 1, received 1: no average would ever move.")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Those of main tasks are the average of the sum's.
        self.squares = self.add_task_variable("squares")
        # What the average of a constant 1 would be: 1 - beta^t after t steps.
        self.filled = self.add_task_variable("filled")

    def solve(self, gramian: Any, active: Any) -> Any:
        wide, present = ops.cast(gramian, "float64"), ops.cast(active, "float64")
        flags = ops.cast(ops.convert_to_tensor(main_tasks(self.roles, self.num_tasks)), "float64")
        main, others = flags * present, (1 - flags) * present
        products = ops.matmul(wide, main)
        square = ops.maximum(ops.sum(main * products), 0.0)
        lengths = ops.where(flags > 0, square, ops.maximum(ops.diagonal(wide), 0.0))
        scales = self._scales(lengths, present)
        scale = ops.sum(main * scales) / ops.maximum(ops.sum(main), 1.0)
        wanted = self.tau * scales**2 * ops.diagonal(wide) - scale * scales * products
        scaled = scales[:, None] * wide * scales[None, :] * others[:, None] * others[None, :]
        multipliers = self._multipliers(scaled, wanted, others, gramian.dtype)
        weights = scale * main + scales * multipliers
        weights = self._lengthened(weights, wide, square)
        return ops.where(ops.sum(main) > 0, weights, others)

    def _scales(self, squares: Any, present: Any) -> Any:
        """Returns by what each gradient is multiplied, after moving the averages."""
        before, filled = (ops.cast(v, "float64") for v in (self.squares, self.filled))
        squares = ops.where(present > 0, self.beta * before + (1 - self.beta) * squares, before)
        filled = ops.where(present > 0, self.beta * filled + (1 - self.beta), filled)
        self.squares.assign(ops.cast(ops.minimum(squares, 1e38), "float32"))
        self.filled.assign(ops.cast(filled, "float32"))
        return 1 / ops.sqrt(squares / ops.where(filled > 0, filled, 1.0) + self.epsilon)

    def _multipliers(self, scaled: Any, wanted: Any, others: Any, dtype: str) -> Any:
        """Returns mu, or 0 where no mu fulfils all constraints."""
        matrix = ops.cast(scaled, dtype)
        found = ops.cast(solvers.nonnegative_qp(matrix, others * wanted), "float64") * others
        supply, lengths = ops.matmul(scaled, found), ops.sqrt(ops.diagonal(scaled))
        # Where no mu fulfils them it grows without end, and what cancels leaves its rounding.
        noise = 1e-15 * self.num_tasks * ops.matmul(ops.abs(scaled), found)
        square = ops.sum(found * supply) - ops.sum(found * noise)
        reached = lengths * ops.sqrt(ops.maximum(square, 0.0))
        room = ROUNDING.get(dtype, LOOSE) * (ops.abs(wanted) + reached) + noise
        fulfilled = ops.logical_or(others <= 0, supply >= wanted - room)
        return ops.where(ops.all(fulfilled), found, 0.0)

    def _lengthened(self, weights: Any, gramian: Any, square: Any) -> Any:
        """Gives the direction the length of the main gradient."""
        found = ops.sum(weights * ops.matmul(gramian, weights))
        ratio = square / ops.where(found > 0, found, 1.0)
        return ops.where(found > 0, weights * ops.sqrt(ratio), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "tau": self.tau,
            "beta": self.beta,
            "epsilon": self.epsilon,
        }
