"""The shortest convex combination, approached with two independent mini-batches."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks, simplex


@keras.saving.register_keras_serializable(package="keras_mtl")
class MoDo(GramianBalancing):
    """Moves the weights towards MGDA's, with inner products of independent gradients.

    On a mini-batch g_i . g_j is too large by what the noises of both have in common, so MGDA's
    weights are biased. Here C_ij = g_i . g'_j multiplies a gradient on the first half of a batch's
    rows with one on the second, which is right in the mean. The weights take one step per batch,
    w <- P(w - learning_rate (C w + rho w)), with P the nearest point with w >= 0 and sum 1 over
    the active tasks. The direction is sum_k w_k g_k, with the gradients on the whole batch. The
    products C w are those of each g_i with one gradient, that of sum_j w_j L'_j: large gradients
    are not kept for it.

    Rows must be shuffled: a task that has labels in one half of a batch only has a gradient of 0
    in the other, and its products are 0.

    The weights sum to 1, so steps are as long as those of a mean of gradients. The learning rate
    is in units of 1 / |g|^2: raise it where gradients are short. As with MGDA short gradients
    dominate in the end, and loss weights set before it act in reverse. An absent task keeps its
    weight, which comes back scaled to the weights of the others.

    Args:
        learning_rate: Float > 0. Of the weights, the paper's gamma. The smaller, the nearer to
            equal weights and the less noise; the larger, the fewer conflicts are left.
        rho: Float >= 0, in units of |g|^2. Pulls the weights towards equal ones.
        scope: `"parameters"` only.
        refresh_every: Integer >= 1. Steps from one move of the weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> modo = keras_mtl.balancing.MoDo(learning_rate=0.1, rho=0.0)
    >>> gramian = [[9.0, 0.0], [0.0, 1.0]]
    >>> modo.compute_weights(gramian)  # 0.5 - 0.1 * 4.5 and 0.5 - 0.1 * 0.5, plus 0.25 each
    [0.3, 0.7]
    >>> modo.compute_weights(gramian, cross_gramian=[[4.0, 1.0], [1.0, 0.0]])
    [0.22, 0.78]

    Reference:
        L. Chen, Fernando, Ying, T. Chen 2023, Three-way trade-off in multi-objective learning:
        optimization, generalization and conflict-avoidance, algorithm 1,
        https://arxiv.org/abs/2305.20057; defaults of
        https://github.com/median-research-group/LibMTL, after the authors' code.
        Differs from the paper: two halves of one batch stand for two batches, and their whole
        for the third one on which the gradients are taken.
    """

    needs_gramian = False
    needs_cross_products = True
    features_reason = (
        "the two halves of a batch are different examples, whose features have no inner product."
    )
    weights_remark = "short gradients get more weight, so loss weights act in reverse."

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.1,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self.learning_rate = checks.positive_number("learning_rate", learning_rate)
        self.rho = checks.finite_number("rho", rho, minimum=0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.task_weights = self.add_task_variable("task_weights", "ones")

    def probe(self, active: Any) -> Any:
        """Returns the weights of the step before, scaled to sum to 1 over the active tasks."""
        task_weights = ops.cast(self.task_weights.value, "float64")
        return simplex.among(task_weights, ops.cast(active, "float64"))

    def solve(self, gramian: Any, active: Any, *, cross_products: Any) -> Any:
        del gramian
        before, active = self.probe(active), ops.cast(active, "float64")
        # Without their mean, on which the nearest point with sum 1 does not depend.
        slope = ops.cast(cross_products, "float64") + self.rho * before
        weights = simplex.project(before - self.learning_rate * slope, active)
        self.task_weights.assign(simplex.put_back(self.task_weights.value, weights, active))
        return weights

    def get_config(self) -> dict[str, Any]:
        options = {"learning_rate": self.learning_rate, "rho": self.rho}
        return {**super().get_config(), **options}
