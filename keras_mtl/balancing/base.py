"""The contract of gradient balancing: task gradients in, one direction out."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.core.method import Method

SCOPES = ("parameters", "features")


@keras.saving.register_keras_serializable(package="keras_mtl")
class GradientBalancing(Method):
    """Base class of gradient balancings: combines task gradients into one direction.

    A subclass writes `call(gradients, gramian, active)` and returns the direction. `active` is
    1.0 for tasks that take part and 0.0 for absent ones, whose gradients are zero rows.
    Inner products of gradients must be read from `gramian`: in scope `"features"` each
    replica holds the coordinates of its own examples only, while the Gramian is global.

    Args:
        scope: `"parameters"` works on the gradients of the shared variables (one backward
            pass a task), `"features"` on those of the tensors where the shared part ends
            (one backward pass of the trunk in all).
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        ValueError: If `scope` is neither of the two.
    """

    def __init__(self, scope: str = "parameters", name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        checks.one_of("scope", scope, SCOPES)
        self.scope = scope

    def __call__(self, gradients: Any, active: Any = None) -> Any:
        gradients = _float(gradients)
        if len(gradients.shape) != 2:
            raise ValueError(
                "`gradients` must have shape (num_tasks, num_params), received shape "
                f"{tuple(gradients.shape)}. Give one flat gradient a row."
            )
        active = self._prepare("gradients", gradients, active)
        gradients = ops.where(active[:, None] > 0, gradients, 0)
        gramian = ops.matmul(gradients, ops.transpose(gradients))
        return super().__call__(gradients, gramian, active)

    def _prepare(self, argument: str, rows: Any, active: Any) -> Any:
        self.check_num_tasks(f"rows of `{argument}`", rows.shape[0])
        self.build_for(rows.shape[0])
        return ops.ones_like(rows[:, 0]) if active is None else ops.cast(active, rows.dtype)

    def call(self, gradients: Any, gramian: Any, active: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} must define `call(gradients, gramian, active)` and return "
            "the direction, or derive from GramianBalancing and define `solve`."
        )

    def combine(self, gradients: Sequence[Any], gramian: Any, active: Any) -> list[Any]:
        """Returns the direction in parts, from gradients that come in parts.

        Args:
            gradients: List of tensors `(num_tasks, size)`, one a variable or feature tensor.
            gramian: Tensor `(num_tasks, num_tasks)`, over all parts and all replicas.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks present in the step.

        Returns:
            A list of tensors `(size,)`, in the order of `gradients`.
        """
        direction = super().__call__(ops.concatenate(list(gradients), axis=1), gramian, active)
        sizes = [ops.shape(part)[1] for part in gradients]
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return [direction[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scope": self.scope}


@keras.saving.register_keras_serializable(package="keras_mtl")
class GramianBalancing(GradientBalancing):
    """Base class of balancings whose direction is a weighted sum of the task gradients.

    A subclass writes `solve(gramian, active)` and returns the weights `(num_tasks,)`, in the
    dtype of `gramian`. Weights of absent tasks do not matter: they are set to 0.

    Args:
        scope: `"parameters"` or `"features"`, as in `GradientBalancing`.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.
    """

    def call(self, gradients: Any, gramian: Any, active: Any) -> Any:
        return ops.matmul(self._weights(gramian, active), gradients)

    def solve(self, gramian: Any, active: Any) -> Any:
        """Returns the weights `(num_tasks,)` for a Gramian `(num_tasks, num_tasks)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `solve(gramian, active)`.")

    def _weights(self, gramian: Any, active: Any) -> Any:
        weights = ops.cast(self.solve(gramian, active), gramian.dtype)
        return ops.where(active > 0, weights, 0)

    def compute_weights(self, gramian: Any, active: Any = None) -> Any:
        """Returns the weight of each task gradient in the direction.

        Args:
            gramian: Array of shape `(num_tasks, num_tasks)`, inner products of the gradients.
            active: Optional boolean array of shape `(num_tasks,)`; `False` for absent tasks.

        Returns:
            A tensor of shape `(num_tasks,)`; 0 for absent tasks.
        """
        gramian = _float(gramian)
        if len(gramian.shape) != 2 or gramian.shape[0] != gramian.shape[1]:
            raise ValueError(
                "`gramian` must have shape (num_tasks, num_tasks), received shape "
                f"{tuple(gramian.shape)}. For gradients G as rows it is G @ G.T."
            )
        active = self._prepare("gramian", gramian, active)
        both = (active[:, None] * active[None, :]) > 0
        return self._weights(ops.where(both, gramian, 0), active)

    def combine(self, gradients: Sequence[Any], gramian: Any, active: Any) -> list[Any]:
        weights = self._weights(gramian, active)
        return [ops.matmul(weights, part) for part in gradients]


def _float(array: Any) -> Any:
    array = ops.convert_to_tensor(array)
    return array if keras.backend.is_float_dtype(array.dtype) else ops.cast(array, "float32")
