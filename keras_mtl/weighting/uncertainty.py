"""Weights from each task's learned noise."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.weighting.base import LossWeighting

FORMS = ("auto", "regression", "classification")
# Optima for losses from 2e-9 to 5e8, and exp(20) * 1e8 can still be squared in float32.
BOUND = 20.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class Uncertainty(LossWeighting):
    """Weights each task by its learned noise.

    With log variances s, a regression task adds 0.5 exp(-s_i) L_i + 0.5 s_i to the total and a
    classification task exp(-s_i) L_i + 0.5 s_i, so a noisy task is weighted down and pays for
    it. The best s_i is log L_i for regression and log 2 L_i for classification.

    Args:
        initial_log_variance: Float in [-20, 20]. Starting value of every s_i (natural log);
            the default 0 starts at weight 0.5 (regression) or 1 (classification).
        form: `"auto"` takes the form of each task's likelihood, which a model knows from its
            loss (cross-entropies are classification, all else, and losses given as plain
            arrays, regression); `"regression"` or `"classification"` is used for all tasks.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `initial_log_variance` is not a number.
        ValueError: If `initial_log_variance` is outside [-20, 20], or `form` none of the three;
            when called, if a loss is negative, whose weight would grow without end.

    Example:

    >>> keras_mtl.weighting.Uncertainty()([1.0, 2.0, 4.0])
    3.5
    >>> keras_mtl.weighting.Uncertainty().compute_weights([4.0, 1.0])
    [0.5, 0.5]
    >>> keras_mtl.weighting.Uncertainty(form="classification").compute_weights([4.0, 1.0])
    [1.0, 1.0]

    Reference:
        Kendall, Gal, Cipolla 2018, Multi-task learning using uncertainty to weigh losses for
        scene geometry and semantics, equations 7 and 10, https://arxiv.org/abs/1705.07115;
        s = log(sigma^2).
        Differs from the paper: its Gaussian likelihood sums squared errors over a target's
        elements, L_i is their mean (as in its experiments); every loss but a cross-entropy
        counts as a squared error; updates keep s within +-20, because a loss of 0 would drive
        its weight to infinity.
    """

    takes_negative_losses = False

    def __init__(
        self,
        initial_log_variance: float = 0.0,
        form: str = "auto",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.initial_log_variance = checks.finite_number(
            "initial_log_variance", initial_log_variance, minimum=-BOUND, maximum=BOUND
        )
        checks.one_of("form", form, FORMS)
        self.form = form

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.log_variances = self.add_task_variable(
            "log_variances",
            keras.initializers.Constant(self.initial_log_variance),
            trainable=True,
            bound=BOUND,
        )

    def call(self, task_losses: Any, active: Any) -> Any:
        # f exp(-s) L + 0.5 s, with f = 1/2 for a Gaussian and 1 for a softmax likelihood.
        weights = self._factors() * ops.exp(-self.log_variances)
        return ops.sum(active * (weights * task_losses + 0.5 * self.log_variances))

    def _factors(self) -> Any:
        if self.form != "auto":
            forms = [self.form] * self.num_tasks
        elif self.roles is None:
            forms = ["regression"] * self.num_tasks
        else:
            forms = [role.likelihood for role in self.roles]
        factors = [0.5 if form == "regression" else 1.0 for form in forms]
        return ops.convert_to_tensor(factors, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "initial_log_variance": self.initial_log_variance,
            "form": self.form,
        }
