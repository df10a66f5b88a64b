"""The shortest convex combination of tracked gradients, approached step by step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.tracking import TrackingBalancing
from keras_mtl.core import checks, simplex


@keras.saving.register_keras_serializable(package="keras_mtl")
class MoCo(TrackingBalancing):
    """Approaches MGDA's direction with averages of the gradients, without bias.

    MGDA's weights depend on the same samples as the gradients that they weight, so its direction
    on mini-batches is biased. Here each task has a tracked gradient y_k <- y_k - b_t (y_k - g_k),
    whose error vanishes as training goes on, and the weights w take one step per batch towards the
    least |sum_k w_k y_k|^2 + rho |w|^2: w <- P(w - c_t (Y Y' + rho I) w), with P the nearest point
    with w >= 0 and sum 1 over the active tasks, b_t = beta / t^decay and
    c_t = learning_rate / t^decay. The direction is sum_k w_k y_k.

    The weights sum to 1, so steps are as long as those of a mean of gradients. The learning rate
    is in units of 1 / |g|^2: raise it where gradients are short. As with MGDA short gradients
    dominate in the end, and loss weights set before it act in reverse. Absent tasks keep their
    y_k and their weight, which comes back scaled to the weights of the others.

    Args:
        beta: Float, above 0, up to 1. How much of y_k a gradient replaces; at 1, without decay,
            y_k is g_k.
        learning_rate: Float > 0. Of the weights, the paper's gamma.
        rho: Float >= 0, in units of |g|^2. Pulls the weights towards equal ones.
        decay: Float >= 0. How fast both fall with the task's steps t (for c_t, the most of any
            active task); 0 keeps them constant.
        scope: `"parameters"` only.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> moco = keras_mtl.balancing.MoCo(beta=1.0)
    >>> moco([[3.0, 0.0], [0.0, 1.0]])  # weights 0.5 - 0.1 * 4.5 and 0.5 - 0.1 * 0.5, plus 0.25
    [0.9, 0.7]

    Reference:
        Fernando, Shen, M. Liu, Chaudhury, Murugesan, T. Chen 2023, Mitigating gradient bias in
        multi-objective learning: a provably convergent approach, algorithm 1,
        https://openreview.net/forum?id=dLAYGdKTi2; defaults and decay of the version in
        https://github.com/median-research-group/LibMTL, after the authors' code.
        Differs from the paper: the weights move before they are used, as in that code (which has
        a softmax in place of the projection and scales gradients to the losses); y_k is not
        confined to a ball.
    """

    weights_remark = "short gradients get more weight, so loss weights act in reverse."

    def __init__(
        self,
        beta: float = 0.5,
        learning_rate: float = 0.1,
        rho: float = 0.0,
        decay: float = 0.5,
        scope: str = "parameters",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.beta = checks.finite_number("beta", beta, minimum=0, maximum=1)
        if self.beta == 0:
            raise ValueError("`beta` must be above 0, received 0: no gradient would ever count.")
        self.learning_rate = checks.positive_number("learning_rate", learning_rate)
        self.rho = checks.finite_number("rho", rho, minimum=0)
        self.decay = checks.finite_number("decay", decay, minimum=0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.task_weights = self.add_task_variable("task_weights", "ones")
        self.steps = self.add_task_variable("steps")

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        self.steps.assign_add(ops.cast(active, "float32"))
        return super().combine(gradients, gramian, active, **more)

    def track(
        self, gradients: Any, tracked: Sequence[Any], active: Any
    ) -> tuple[Any, Sequence[Any]]:
        part = ops.cast(self.beta * self._fallen(self.steps), gradients.dtype)[:, None]
        average = (1 - part) * tracked[0] + part * gradients
        return average, [average]

    def solve(self, gramian: Any, active: Any) -> Any:
        gramian, active = ops.cast(gramian, "float64"), ops.cast(active, "float64")
        before = simplex.among(ops.cast(self.task_weights.value, "float64"), active)
        slope = ops.matmul(gramian, before) + self.rho * before
        steps = ops.max(active * ops.cast(self.steps.value, "float64"))
        rate = self.learning_rate * self._fallen(steps)
        weights = simplex.project(before - rate * slope, active)
        self.task_weights.assign(simplex.put_back(self.task_weights.value, weights, active))
        return weights

    def _fallen(self, steps: Any) -> Any:
        return ops.power(ops.maximum(steps, 1.0), -self.decay)

    def get_config(self) -> dict[str, Any]:
        options = {"beta": self.beta, "learning_rate": self.learning_rate}
        return {**super().get_config(), **options, "rho": self.rho, "decay": self.decay}
