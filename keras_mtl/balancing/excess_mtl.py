"""Weights that grow with the loss a task could still lose."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.tracking import TrackingBalancing
from keras_mtl.core import checks, shares
from keras_mtl.core.in_turn import after, in_turn, rows_in_turn

# More than a ratio of risks is in training; keeps the logits finite.
_LARGEST_RATIO = 1e6


@keras.saving.register_keras_serializable(package="keras_mtl")
class ExcessMTL(TrackingBalancing):
    """Weights tasks by their excess risk: how far a loss is above what it can reach.

    A noisy task has a high loss and nothing left to learn; its excess risk is low. With h_k the
    squares of a task's gradients summed over the steps so far, the risk is estimated as
    e_k = sum_p g_kp^2 / sqrt(h_kp + epsilon), over the parameters p. Weights are multiplied by
    exp(learning_rate e_k / e_k0), with e_k0 the estimate in the task's first step, and scaled to
    sum to the number of active tasks, K if all are. The heads learn with the weights too: the step
    descends on sum_k w_k L_k.

    The direction is as long as a sum. Positive factors of the losses, such as those of a loss
    weighting, cancel in e_k / e_k0, so they count for as much as without this method. A first
    estimate of 0 counts as equal to all later ones. The weights of absent tasks do not move.

    Args:
        learning_rate: Float >= 0. How fast weights grow with the risks; at 0 all stay 1.
        epsilon: Float > 0, in units of squared gradients. Keeps the divisor from 0.
        scope: `"parameters"` only.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> excess = keras_mtl.balancing.ExcessMTL(learning_rate=1.0)
    >>> excess([[1.0, 0.0], [0.0, 1.0]])
    [1.0, 1.0]
    >>> excess([[1.0, 0.0], [0.0, 0.1]])  # the second task has little left to learn
    [1.33511, 0.0664886]

    Reference:
        He, S. Zhou, Zhang, Yun, Xu, Zeng, Chilimbi, Zhao 2024, Robust multi-task learning with
        excess risks, algorithm 1, https://arxiv.org/abs/2402.02009; scaled by the first risks and
        with the defaults of the authors' code, https://github.com/yifei-he/ExcessMTL.
        Differs from the paper: gradients are those of the shared variables, as in the code. In
        the first step, whose estimates become the unit, the weights rest; the code multiplies
        them by exp of the estimates without a unit.
    """

    weights_heads = True

    def __init__(
        self,
        learning_rate: float = 0.01,
        epsilon: float = 1e-7,
        scope: str = "parameters",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.learning_rate = checks.finite_number("learning_rate", learning_rate, minimum=0)
        self.epsilon = checks.positive_number("epsilon", epsilon)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.logits = self.add_task_variable("logits")
        self.initial_risks = self.add_task_variable("initial_risks")
        self.has_begun = self.add_task_variable("has_begun")

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        sums = in_turn(
            lambda part, variables: rows_in_turn(
                self._risks, part, ops.cast(variables[0].value, part.dtype)
            ),
            gradients,
            self.tracked,
        )
        self._learn(ops.cast(sum(sums), "float32"), ops.cast(active, "float32"))
        with after(sums):
            return super().combine(gradients, gramian, active, **more)

    def _risks(self, rows: Any, squares: Any) -> Any:
        return ops.sum(rows**2 / ops.sqrt(squares + rows**2 + self.epsilon), axis=1)

    def _learn(self, risks: Any, active: Any) -> None:
        """Multiplies the weights of the active tasks, whose sum stays; not in a first step."""
        known = self.initial_risks > 0
        ratios = ops.where(known, risks / ops.where(known, self.initial_risks, 1.0), 1.0)
        moves = active * self.has_begun
        ratios = moves * ops.minimum(ratios, _LARGEST_RATIO)
        begins = ops.logical_and(active > 0, self.has_begun <= 0)
        self.initial_risks.assign(ops.where(begins, risks, self.initial_risks))
        self.has_begun.assign(ops.maximum(self.has_begun, active))
        # In logarithms, which neither overflow nor keep a weight at 0 for ever.
        old, new = self.logits.value, self.logits + self.learning_rate * ratios
        new = new - _log_sum(new, moves) + _log_sum(old, moves)
        self.logits.assign(ops.where(moves > 0, new, old))

    def track(
        self, gradients: Any, tracked: Sequence[Any], active: Any
    ) -> tuple[Any, Sequence[Any]]:
        return gradients, [tracked[0] + gradients**2]

    def solve(self, gramian: Any, active: Any) -> Any:
        return self.head_weights(None, active)

    def head_weights(self, weights: Any, active: Any) -> Any:
        del weights
        return ops.sum(active) * ops.cast(shares.softmax(self.logits, active), active.dtype)

    def get_config(self) -> dict[str, Any]:
        options = {"learning_rate": self.learning_rate, "epsilon": self.epsilon}
        return {**super().get_config(), **options}


def _log_sum(logits: Any, active: Any) -> Any:
    return ops.logsumexp(ops.where(active > 0, logits, shares.ABSENT))
