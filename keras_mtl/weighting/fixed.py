"""Equal weights: the total is the sum of the losses."""

from typing import Any

import keras
from keras import ops

from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class Fixed(LossWeighting):
    """Weights every task by 1, leaving the choice to `loss_weights`.

    The total is sum_i L_i. With the user's constants c, the model trains on sum_i c_i L_i,
    as a plain Keras model does.

    Input shape: `(num_tasks,)`, mean losses, unscaled.
    Output shape: `()`, the total.

    Example:

    >>> keras_mtl.weighting.Fixed().compute_weights([4.0, 1.0])
    [1.0, 1.0]

    Reference:
        The weighted sum of Caruana 1997, Multitask learning, Machine Learning 28, 41-75.
    """

    chooses = False

    def call(self, task_losses: Any, active: Any) -> Any:
        return ops.sum(active * task_losses)
