"""Gates, which say how much of each expert a task takes, and mixtures, which take it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.heads.base import pool


def gate_features(inputs: Any, name: str = "gate_inputs") -> Any:
    """Returns what gates read: the inputs of the experts, pooled and joined.

    Args:
        inputs: Tensor, or list or dict of tensors. Those with axes between batch and channels are
            averaged over these, padding left out. Masks, which are booleans, are not read.
        name: String. Name of the layer, where one is needed.

    Returns:
        A tensor `(batch, channels)`.

    Raises:
        ValueError: If an input holds no floats, such as token ids.
    """
    flat = keras.tree.flatten(inputs)
    flat = [tensor for tensor in flat if tensor.dtype != "bool"] or flat
    for tensor in flat:
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise ValueError(
                f"Gates read numbers, input '{tensor.name}' holds {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}. Embed or scale it in a stem, and give the stem's output "
                "as `inputs`."
            )
    if len(flat) == 1 and len(flat[0].shape) == 2:
        return flat[0]
    return PooledInputs(name=name)(flat)


@keras.saving.register_keras_serializable(package="keras_mtl")
class PooledInputs(keras.layers.Layer):
    """Averages tensors over the axes between batch and channels, and joins them.

    Call arguments:
        inputs: List of tensors `(batch, ..., channels)`; Keras' masks leave out padding.

    Output shape: `(batch, channels)`, the sum of the channels.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Sequence[Any], mask: Any = None) -> Any:
        masks = [None] * len(inputs) if mask is None else mask
        pooled = [pool(_with_channels(x), "avg", m) for x, m in zip(inputs, masks, strict=True)]
        return ops.concatenate(pooled, axis=-1)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs, mask


def _with_channels(x: Any) -> Any:
    return x if len(x.shape) > 1 else ops.expand_dims(x, -1)


@keras.saving.register_keras_serializable(package="keras_mtl")
class Gate(keras.layers.Layer):
    """Gives each expert a weight, for each example: softmax(W x / temperature).

    Args:
        num_experts: Integer >= 1.
        temperature: Float > 0. Above 1 the weights are more even, below 1 more pointed.
        dropout: Float from 0 to 0.99. Chance with which, in training, an expert is left out and the
            weights of the others are scaled to sum to 1 (Zhao et al. 2019). Where this would leave
            out all, none is.
        load_balancing: Float >= 0. Adds this times the squared coefficient of variation of the
            experts' mean weights in the batch, before dropout, to the loss (Shazeer et al. 2017,
            equation 7, with means in place of sums, which is the same).
        kernel_initializer: Initializer of W.
        seed: Optional integer, of the dropout.
        name: Optional string. Name of the layer.

    Input shape: `(batch, channels)`.
    Output shape: `(batch, num_experts)`, each row a distribution, float32 or finer.
    """

    is_gate = True

    def __init__(
        self,
        num_experts: int,
        temperature: float = 1.0,
        dropout: float = 0.0,
        load_balancing: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # In float32 from the inputs on: in float16 logits would overflow and steps be coarse.
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.num_experts = checks.positive_integer("num_experts", num_experts)
        self.temperature = checks.positive_number("temperature", temperature)
        self.dropout = checks.finite_number("gate_dropout", dropout, minimum=0, maximum=0.99)
        self.load_balancing = checks.finite_number("load_balancing", load_balancing, minimum=0)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.num_experts),
            initializer=self.kernel_initializer,
            name="kernel",
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        product = ops.matmul(at_least_float32(inputs), at_least_float32(self.kernel))
        logits = product / self.temperature
        weights = softmax(logits)
        if self.load_balancing:
            self.add_loss(self.load_balancing * squared_variation(weights))
        return softmax(self._with_some_left_out(logits)) if training and self.dropout else weights

    def _with_some_left_out(self, logits: Any) -> Any:
        draws = keras.random.uniform(ops.shape(logits), seed=self.seed_generator)
        kept = draws >= self.dropout
        kept = ops.logical_or(kept, ops.logical_not(ops.any(kept, axis=-1, keepdims=True)))
        # Not `-inf`, of which gradients may be NaN.
        return ops.where(kept, logits, ops.cast(-1e30, logits.dtype))

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Traced: from `compute_output_shape` Keras would take the compute dtype, not float32.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "temperature": self.temperature,
            "dropout": self.dropout,
            "load_balancing": self.load_balancing,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }


def squared_variation(weights: Any) -> Any:
    """Returns the squared coefficient of variation of experts' mean weights.

    Args:
        weights: Tensor `(batch, num_experts)` whose rows sum to 1, so that the mean over experts is
            1 / num_experts; 0 of a batch without rows, as a replica may get.
    """
    rows = ops.maximum(ops.cast(ops.shape(weights)[0], weights.dtype), 1.0)
    means = ops.sum(weights, axis=0) / rows
    return ops.var(means) * weights.shape[-1] ** 2


def at_least_float32(x: Any) -> Any:
    """Returns `x` in float32, or as it is where it is finer."""
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def softmax(logits: Any) -> Any:
    """Returns the softmax over the last axis, which may have one entry."""
    # Not `ops.softmax`, which warns of one.
    return ops.exp(logits - ops.logsumexp(logits, axis=-1, keepdims=True))


@keras.saving.register_keras_serializable(package="keras_mtl")
class Mixture(keras.layers.Layer):
    """Takes of each expert what a gate says: sum_e weights_e expert_e.

    Args:
        stacked: Boolean. Whether the experts come as tensors `(batch, experts, channels)` of
            several each, and not one by one.
        name: Optional string. Name of the layer.

    Call arguments:
        inputs: List of the weights `(batch, num_experts)`, then the experts' features
            `(batch, ..., channels)`, all of one shape. The mask of the first expert goes along.

    Output shape: that of one expert.
    """

    def __init__(self, stacked: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stacked = stacked
        self.supports_masking = True

    def call(self, inputs: Sequence[Any], mask: Any = None) -> Any:
        del mask
        weights, *experts = inputs
        weights = ops.cast(weights, experts[0].dtype)
        if self.stacked:
            whole = experts[0] if len(experts) == 1 else ops.concatenate(experts, axis=1)
            # Not `einsum`, which multiplies a small matrix for each row, at 2 to 3 times the cost.
            return ops.sum(ops.expand_dims(weights, -1) * whole, axis=1)
        ones = (1,) * (len(experts[0].shape) - 1)
        parts = [
            ops.reshape(weights[:, index], (-1, *ones)) * expert
            for index, expert in enumerate(experts)
        ]
        return sum(parts[1:], start=parts[0])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs
        return None if mask is None else mask[1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stacked": self.stacked}
