"""Auxiliary gradients brought towards the length of the main ones, variable by variable."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base import GradientBalancing
from keras_mtl.core import checks
from keras_mtl.core.in_turn import in_turn
from keras_mtl.core.roles import main_tasks

# Quotients of lengths stay within float32.
_LARGEST = 1e38


@keras.saving.register_keras_serializable(package="keras_mtl")
class MetaBalance(GradientBalancing):
    """Brings auxiliary gradients towards the length of the main ones.

    In each variable, with n_k the moving average of the length of task k's gradient there, an
    auxiliary gradient g_k becomes relax (n_main / n_k) g_k + (1 - relax) g_k. The direction is the
    sum over the tasks. So an auxiliary task can neither drown the main one in a variable nor fade
    from it. Gradients given as a plain array are those of one variable.

    Main tasks are those that are not `auxiliary`; among gradients given as a plain array the
    first. Where no main task takes part, auxiliary gradients stay as they are. The direction is as
    long as a sum. Of a loss weighting set before it, the weights of auxiliary tasks count only as
    far as `relax` is below 1. The averages of absent tasks do not move.

    Args:
        relax: Float in [0, 1]. How near to the main length they are brought: 1 all the way, 0 not.
        beta: Float from 0, below 1. The part of the old average that is kept; 0 averages nothing.
        scope: `"parameters"` only.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> keras_mtl.balancing.MetaBalance(relax=1.0)([[1.0, 0.0], [0.0, 10.0]])
    [1.0, 1.0]
    >>> keras_mtl.balancing.MetaBalance()([[1.0, 0.0], [0.0, 10.0]])  # 0.7 * 1 + 0.3 * 10
    [1.0, 3.7]

    Reference:
        Y. He, Feng, Cheng, Ji, Guo, Caverlee 2022, MetaBalance: improving multi-task
        recommendations via adapting gradient magnitudes of auxiliary tasks, algorithm 1, both
        enlarging and reducing, https://arxiv.org/abs/2203.06801.
        Differs from the paper: several main tasks count by their mean length; averages are
        corrected for their start at 0, which cancels while no task is absent.
    """

    needs_gramian = False
    features_reason = (
        "it averages lengths variable by variable, and the features are other ones in every batch."
    )
    weights_remark = (
        "auxiliary gradients are brought towards the length of the main ones, so little is left "
        "of the weights of auxiliary tasks."
    )

    def __init__(
        self,
        relax: float = 0.7,
        beta: float = 0.9,
        scope: str = "parameters",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.relax = checks.finite_number("relax", relax, minimum=0, maximum=1)
        self.beta = checks.finite_number("beta", beta, minimum=0, maximum=1)
        if self.beta == 1:
            raise ValueError("`beta` must be below 1, received 1: no average would ever move.")
        # Past the tracking of Keras, which would refuse the list made after `build`.
        object.__setattr__(self, "averages", [])

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # What the averages of a constant 1 would be: 1 - beta^t after t steps.
        self.filled = self.add_task_variable("filled")

    def build_for_parts(self, sizes: Sequence[int]) -> None:
        """Makes the averages, once, for gradients in so many parts."""
        if not self.averages:
            with self.added_late():
                self.averages.extend(
                    self.add_task_variable(f"average_{part}") for part in range(len(sizes))
                )
        if len(self.averages) != len(sizes):
            raise ValueError(
                f"MetaBalance '{self.name}' was built for gradients in {len(self.averages)} "
                f"parts, received {len(sizes)}. Make a new MetaBalance for them."
            )

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        del gramian, more
        present = ops.cast(active, "float32")
        self._move(self.filled, ops.ones_like(present), present)
        return in_turn(
            lambda part, average: self._matched(part, average, present), gradients, self.averages
        )

    def _matched(self, part: Any, average: Any, present: Any) -> Any:
        self._move(average, ops.cast(_lengths(part), "float32"), present)
        lengths = average / ops.where(self.filled > 0, self.filled, 1.0)
        factors = ops.where(present > 0, self._factors(lengths, present), 0.0)
        return ops.matmul(ops.cast(factors, part.dtype), part)

    def _factors(self, lengths: Any, present: Any) -> Any:
        is_main = ops.convert_to_tensor(main_tasks(self.roles, self.num_tasks), "float32")
        mains = is_main * present
        count = ops.sum(mains)
        length = ops.sum(mains / ops.maximum(count, 1.0) * lengths)
        ratios = ops.minimum(length / ops.where(lengths > 0, lengths, 1.0), _LARGEST)
        factors = self.relax * ratios + (1.0 - self.relax)
        matches = ops.logical_and(is_main <= 0, count > 0)
        return ops.where(matches, factors, 1.0)

    def _move(self, average: Any, values: Any, present: Any) -> None:
        moved = self.beta * average + (1.0 - self.beta) * values
        average.assign(ops.where(present > 0, moved, average))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "relax": self.relax, "beta": self.beta}


def _lengths(part: Any) -> Any:
    """Returns the length of each row, also where its squares leave float32."""
    units = ops.max(ops.abs(part), axis=1, keepdims=True)
    rows = part / ops.where(units > 0, units, 1.0)
    return units[:, 0] * ops.sqrt(ops.sum(rows**2, axis=1))
