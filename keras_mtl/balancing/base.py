"""The contract of gradient balancing: task gradients in, one direction out."""

import math
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

    A method that reads no inner products sets `needs_gramian` to `False` and gets `None` for them.
    What else a method may need it declares on its class, and then gets as a further keyword:

    * `needs_losses`: `losses`, the raw task losses `(num_tasks,)` over all replicas, without any
      weights; 1.0 for absent tasks.
    * `needs_cross_gramian`: `cross_gramian`, `(num_tasks, num_tasks)`: entry (i, j) is the inner
      product of gradient i on the first half of the batch's rows with gradient j on the second.
    * `needs_cross_products`: `cross_products`, `(num_tasks,)`: that matrix times what
      `probe(active)` returns, less the mean over the active tasks. Much less work and memory,
      where the weights of a `GramianBalancing` without `needs_gramian` need no more.
    * `needs_features`: `features`, a list of the tensors `(batch_size, ...)` that the gradients are
      taken by, one a part; their rows lie one behind the other in a gradient, and each replica has
      its own. `None` in scope `"parameters"`.
    * `needs_one_task`: `chosen`, 1.0 for the only task whose gradient was taken in this step and
      0.0 for the others; `choose(active)` names it. The gradients have one row, that task's, and
      the Gramian one entry.

    `reads_gramian_only` says that the direction is a weighted sum of the gradients whose weights
    follow from the Gramian: large gradients need not be formed then. With `weights_heads` the
    variables that one task reaches alone learn with what `head_weights` returns. `features_reason`
    says why scope `"features"` is refused, where it is, and `weights_remark` what becomes of a
    loss weighting before it, where that is not what a user expects: `compile` warns of it.

    Args:
        scope: `"parameters"` works on the gradients of the shared variables (one backward
            pass a task), `"features"` on those of the tensors where the shared part ends
            (one backward pass of the trunk in all).
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        ValueError: If `scope` is neither of the two, or refused by this method.
    """

    needs_gramian = True
    needs_losses = False
    needs_cross_gramian = False
    needs_cross_products = False
    needs_features = False
    needs_one_task = False
    weights_heads = False
    reads_gramian_only = False
    features_reason: str | None = None
    weights_remark: str | None = None
    refresh_every = 1

    def __init__(self, scope: str = "parameters", name: str | None = None, **kwargs: Any) -> None:
        if kwargs.pop("refresh_every", 1) != 1:
            raise ValueError(
                f"`refresh_every` must be 1 for {type(self).__name__}, whose direction is no "
                "weighted sum of the task gradients: there are no weights to reuse."
            )
        super().__init__(name=name, **kwargs)
        checks.one_of("scope", scope, SCOPES)
        if scope == "features" and self.features_reason is not None:
            raise ValueError(
                f"`scope` of {type(self).__name__} must be 'parameters', received 'features': "
                f"{self.features_reason}"
            )
        self.scope = scope

    def __call__(
        self,
        gradients: Any,
        active: Any = None,
        *,
        losses: Any = None,
        chosen: Any = None,
        features: Any = None,
    ) -> Any:
        """Returns the direction for gradients given as a matrix.

        Args:
            gradients: Array of shape `(num_tasks, num_params)`.
            active: Optional boolean array of shape `(num_tasks,)`; `False` for absent tasks.
            losses: Array of shape `(num_tasks,)`, for methods with `needs_losses`.
            chosen: Optional array of shape `(num_tasks,)`, for methods with `needs_one_task`: 1.0
                for the task whose gradient counts; by default what the method chooses.
            features: Optional array of shape `(batch_size, ...)`, for methods with
                `needs_features`: what the gradients were taken by, `num_params` numbers in all.

        Returns:
            A tensor of shape `(num_params,)`.
        """
        gradients = as_floats(gradients)
        if len(gradients.shape) != 2:
            raise ValueError(
                "`gradients` must have shape (num_tasks, num_params), received shape "
                f"{tuple(gradients.shape)}. Give one flat gradient a row."
            )
        active = self._prepare("gradients", gradients, active)
        self.build_for_parts([gradients.shape[1]])
        rows = active
        if self.needs_one_task:
            chosen = self.choose(active) if chosen is None else as_floats(chosen)
            rows = active * ops.cast(chosen, active.dtype)
        gradients = ops.where(rows[:, None] > 0, gradients, 0)
        if self.needs_one_task:
            gradients = ops.sum(gradients, axis=0, keepdims=True)
        gramian = ops.matmul(gradients, ops.transpose(gradients))
        more = self.more(
            losses=self._checked_losses(losses, active),
            chosen=chosen,
            **self.of_halves(gramian, active),
            features=None if features is None else [_checked_features(features, gradients)],
        )
        return self.combine([gradients], gramian, active, **more)[0]

    def _prepare(self, argument: str, rows: Any, active: Any) -> Any:
        self.check_num_tasks(f"rows of `{argument}`", rows.shape[0])
        self.build_for(rows.shape[0])
        if active is None:
            return ops.ones_like(rows[:, 0])
        active = ops.cast(active, rows.dtype)
        if tuple(active.shape) != (rows.shape[0],):
            raise ValueError(
                f"`active` must have shape ({rows.shape[0]},), one entry a row of `{argument}`, "
                f"received shape {tuple(active.shape)}."
            )
        return active

    def _checked_losses(self, losses: Any, active: Any) -> Any:
        if not self.needs_losses:
            return None
        losses = None if losses is None else as_floats(losses)
        if losses is None or tuple(losses.shape) != tuple(active.shape):
            received = "nothing" if losses is None else f"shape {tuple(losses.shape)}"
            raise ValueError(
                f"`losses` must have shape {tuple(active.shape)} for {type(self).__name__}, which "
                f"reads the raw task losses, received {received}. Give one loss a task."
            )
        return ops.where(active > 0, ops.cast(losses, active.dtype), 1.0)

    def of_halves(self, matrix: Any, active: Any) -> dict[str, Any]:
        """Returns what is needed of the inner products of two halves, `(num_tasks, num_tasks)`."""
        products = None
        if self.needs_cross_products:
            # In float64: beside the product of a long gradient those of short ones are differences.
            matrix, active = ops.cast(matrix, "float64"), ops.cast(active, "float64")
            probe = ops.where(active > 0, ops.cast(self.probe(active), "float64"), 0)
            products = ops.matmul(matrix, probe)
            mean = ops.sum(active * products) / ops.maximum(ops.sum(active), 1)
            products = active * (products - mean)
        return {"cross_gramian": matrix, "cross_products": products}

    @property
    def compares_halves(self) -> bool:
        """Whether the two halves of a batch are needed apart."""
        return self.needs_cross_gramian or self.needs_cross_products

    def more(self, **evidence: Any) -> dict[str, Any]:
        """Returns those of the keywords that this method needs."""
        needed = {
            "losses": self.needs_losses,
            "cross_gramian": self.needs_cross_gramian,
            "cross_products": self.needs_cross_products,
            "chosen": self.needs_one_task,
            "features": self.needs_features,
        }
        return {name: value for name, value in evidence.items() if needed[name]}

    def build_for_parts(self, sizes: Sequence[int]) -> None:
        """Hook: makes what is kept for each parameter, of gradients in parts of these sizes."""
        # A body: AutoGraph, which strips docstrings, warns of functions without one.
        del sizes

    def probe(self, active: Any) -> Any:
        """Hook: returns factors of the gradients, `(num_tasks,)`, where `needs_cross_products`."""
        raise NotImplementedError(f"{type(self).__name__} must define `probe(active)`.")

    def choose(self, active: Any) -> Any:
        """Hook: returns 1.0 for the task of the step, where `needs_one_task`; else 0.0."""
        raise NotImplementedError(f"{type(self).__name__} must define `choose(active)`.")

    def call(self, gradients: Any, gramian: Any, active: Any, **more: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} must define `call(gradients, gramian, active)` and return "
            "the direction, or derive from GramianBalancing and define `solve`."
        )

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        """Returns the direction in parts, from gradients that come in parts.

        Args:
            gradients: List of tensors `(num_tasks, size)`, one a variable or feature tensor;
                `(1, size)` where `needs_one_task`.
            gramian: Tensor `(num_tasks, num_tasks)`, over all parts and all replicas; `None` unless
                `needs_gramian`.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks present in the step.
            **more: What the method has declared to need.

        Returns:
            A list of tensors `(size,)`, in the order of `gradients`.
        """
        parts = list(gradients)
        whole = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)
        direction = super().__call__(whole, gramian, active, **more)
        sizes = [ops.shape(part)[1] for part in parts]
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return [direction[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def balance(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> tuple[list[Any], Any]:
        """Returns what `combine` does, and the weights of the heads, `None` for 1 each.

        Called in the step, once; arguments as for `combine`.
        """
        directions = self.combine(gradients, gramian, active, **more)
        heads = self.head_weights(None, active, **more) if self.weights_heads else None
        return directions, heads

    def head_weights(self, weights: Any, active: Any, **more: Any) -> Any:
        """Hook: returns the weights of private gradients, `(num_tasks,)`, where `weights_heads`.

        Args:
            weights: Those of the shared gradients, where the direction is a weighted sum of them.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks present in the step.
            **more: What the method has declared to need.
        """
        del active, more
        return weights

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scope": self.scope}


def _checked_features(features: Any, gradients: Any) -> Any:
    features = as_floats(features)
    if math.prod(features.shape) != gradients.shape[1]:
        raise ValueError(
            f"`features` must have as many elements as a gradient, {gradients.shape[1]}, received "
            f"shape {tuple(features.shape)}. Give the tensor `(batch_size, ...)` by which the "
            "gradients were taken."
        )
    return features


def as_floats(array: Any) -> Any:
    """Returns an array as a tensor of float64 where it is one, else of float32."""
    array = ops.convert_to_tensor(array)
    return array if array.dtype == "float64" else ops.cast(array, "float32")
