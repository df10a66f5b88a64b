"""Experts: copies of a trunk whose outputs gates mix; dense ones run as one batched product."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures._columns import Column
from keras_mtl.architectures._gates import Mixture
from keras_mtl.core.rebuild import rebuild
from keras_mtl.core.unregistered import found_by_name

# Layers that treat each number alike, or the last axis, and so run on all experts at once.
_BETWEEN = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Dropout,
)
# Between the seeds of one copy and those of the next, as between columns.
_SEED_STEP = 1000
_SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


class Experts:
    """Copies of a trunk with different values.

    A trunk of dense layers, activations and dropout on one input `(batch, channels)` becomes one
    layer `<name>s`, in which each dense layer is one batched product over all experts. Any other
    trunk becomes layers `<name>_0`, `<name>_1`, and so on; so does one with frozen layers, a layer
    that comes twice, constraints, penalties on outputs, a `call` of a Sequential's own, activations
    that are not Keras' own, or initializers that are not registered with it.

    Args:
        stages: List of layers or models, one after the other an expert.
        num_experts: Integer >= 1.
        inputs: What the experts read: a tensor, or a structure of tensors.
        name: String.
        first: Integer >= 0. Number of copies of the trunk made before, for experts that start from
            different values than these where stages have seeds.
        copy_weights: Boolean. Whether all start from the values of `stages`; then there is no
            batched product.
    """

    def __init__(
        self,
        stages: Sequence[keras.layers.Layer],
        num_experts: int,
        inputs: Any,
        name: str = "expert",
        *,
        first: int = 0,
        copy_weights: bool = False,
    ) -> None:
        flat = None if copy_weights else flat_dense(stages, inputs)
        self.stacked = flat is not None
        self.num_experts = num_experts
        if flat is not None:
            layers = [
                keras.saving.serialize_keras_object(rebuild(layer, seed_offset=_SEED_STEP * first))
                for layer in flat
            ]
            policy = flat[0].dtype_policy
            batched = DenseExperts(num_experts, layers, name=f"{name}s", dtype=policy)
            self.outputs = [batched(inputs)]
            return
        self.outputs = [
            Column(stages, f"{name}_{index}", first + index, copy_weights=copy_weights)(inputs)
            for index in range(num_experts)
        ]


def mix(gate: Any, groups: Sequence[Experts], name: str) -> Any:
    """Returns what a gate takes of the experts of all groups, in their order.

    Args:
        gate: Tensor `(batch, num_experts)`.
        groups: List of `Experts`, made from one trunk on inputs of one shape.
        name: String. Name of the mixture, or `<name>_<entry>` where experts return a dict.

    Raises:
        ValueError: If experts return numbers that are no floats. Of masks among the entries of a
            dict, that of the first expert is taken.
    """
    outputs = [output for group in groups for output in group.outputs]
    if isinstance(outputs[0], dict):
        return {
            key: first
            if first.dtype == "bool"
            else _mixed(gate, [x[key] for x in outputs], f"{name}_{key}")
            for key, first in outputs[0].items()
        }
    return _mixed(gate, outputs, name, stacked=groups[0].stacked)


def _mixed(gate: Any, outputs: Sequence[Any], name: str, *, stacked: bool = False) -> Any:
    first = outputs[0]
    if not keras.backend.is_float_dtype(first.dtype):
        raise ValueError(
            f"`trunk` must return floats, for gates to mix, received {first.dtype} of shape "
            f"{tuple(first.shape)} for '{name}'. Cast them in the trunk, or end it before."
        )
    return Mixture(stacked=stacked, name=name)([gate, *outputs])


def flat_dense(stages: Sequence[keras.layers.Layer], inputs: Any) -> list[Any] | None:
    """Returns the layers of a trunk that runs as one batched product, or `None` for another.

    Args:
        stages: List of layers or models.
        inputs: What the trunk reads.
    """
    if not isinstance(inputs, keras.KerasTensor) or len(inputs.shape) != 2 or inputs.sparse:
        return None
    flat: list[Any] = []
    for stage in stages:
        inner = stage.layers if _only_runs_its_layers(stage) else [stage]
        flat += [layer for layer in inner if not isinstance(layer, keras.layers.InputLayer)]
    fits = all(_is_plain_dense(layer) or _fits_between(layer) for layer in flat)
    # A layer that comes twice has one kernel.
    fits = fits and len(set(map(id, flat))) == len(flat)
    # The batched layer has one dtype policy for all.
    fits = fits and len({layer.dtype_policy.name for layer in flat}) == 1
    return flat if fits and any(map(_is_plain_dense, flat)) else None


def _only_runs_its_layers(stage: Any) -> bool:
    # A subclass of Sequential may do anything in a `call` of its own.
    return isinstance(stage, keras.Sequential) and type(stage).call is keras.Sequential.call


def _is_plain_dense(layer: Any) -> bool:
    # A subclass may do anything. Penalties that are sums over the elements are sums over experts.
    if type(layer) is not keras.layers.Dense or not layer.trainable or layer.quantization_mode:
        return False
    penalties = [layer.kernel_regularizer, layer.bias_regularizer]
    others = [layer.activity_regularizer, layer.kernel_constraint, layer.bias_constraint]
    others += [layer.lora_rank]
    sums = all(penalty is None or type(penalty) in _SUMS for penalty in penalties)
    # The batched layer keeps the configs of its layers, initializers included.
    initializers = [layer.kernel_initializer, layer.bias_initializer]
    plain = all(other is None for other in others) and all(map(_is_in_config, initializers))
    return sums and plain and _is_known(layer.activation)


def _is_in_config(initializer: Any) -> bool:
    """Whether Keras makes an initializer again from its config alone."""
    is_function = inspect.isroutine(initializer)
    return found_by_name(initializer if is_function else type(initializer))


def _fits_between(layer: Any) -> bool:
    if type(layer) not in _BETWEEN or layer.activity_regularizer is not None:
        return False
    if getattr(layer, "noise_shape", None) is not None:
        return False
    return _is_known(getattr(layer, "activation", None))


def _is_known(activation: Any) -> bool:
    """Whether an activation is one of Keras' functions: another may mix examples or learn."""
    if activation is None:
        return True
    module = getattr(activation, "__module__", "")
    of_keras = inspect.isfunction(activation) and module.startswith("keras.src.activations")
    return of_keras and activation is not keras.activations.glu  # which halves the channels


@keras.saving.register_keras_serializable(package="keras_mtl")
class DenseExperts(keras.layers.Layer):
    """Runs equal stacks of dense layers side by side, each layer one batched product.

    Expert e computes `f(x W_e + b_e)` for each dense layer; activations and dropout between them
    work on all experts at once. Each expert draws its initial values alone, seeds included.
    Parameters: `num_experts` times those of the layers.

    Args:
        num_experts: Integer >= 1.
        layers: List of configs of layers, dense, activations and dropout.
        name: Optional string. Name of the layer.

    Input shape: `(batch, channels)`.
    Output shape: `(batch, num_experts, units)`.
    """

    def __init__(self, num_experts: int, layers: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_experts = num_experts
        self._configs = list(layers)
        parts = [keras.saving.deserialize_keras_object(config) for config in layers]
        # Dense ones lend their arguments only and are not tracked; the others are called.
        self._parts = _Untracked(parts)
        self.between = [layer for layer in parts if not isinstance(layer, keras.layers.Dense)]
        self.kernels: list[Any] = []
        self.biases: list[Any] = []

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        size = input_shape[-1]
        for index, layer in enumerate(self._parts.layers):
            if not isinstance(layer, keras.layers.Dense):
                continue
            shape = (size, layer.units)
            self.kernels.append(self._stacked(layer, "kernel", shape, f"kernel_{index}"))
            if layer.use_bias:
                self.biases.append(self._stacked(layer, "bias", (1, layer.units), f"bias_{index}"))
            size = layer.units

    def _stacked(self, layer: Any, part: str, shape: tuple[int, ...], name: str) -> Any:
        own = [_initializer(layer, part, index) for index in range(self.num_experts)]

        def initializer(shape: Any, dtype: Any = None) -> Any:
            return ops.stack([draw(shape[1:], dtype) for draw in own])

        return self.add_weight(
            shape=(self.num_experts, *shape),
            initializer=initializer,
            regularizer=getattr(layer, f"{part}_regularizer"),
            name=name,
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        x = inputs  # (batch, channels), from the first product on (experts, batch, channels)
        kernels, biases = iter(self.kernels), iter(self.biases)
        for layer in self._parts.layers:
            if not isinstance(layer, keras.layers.Dense):
                x = self._between(layer, x, training)
                continue
            x = ops.matmul(x, next(kernels))
            if layer.use_bias:
                x = x + next(biases)
            x = x if layer.activation is None else layer.activation(x)
        return ops.transpose(x, (1, 0, 2))

    def _between(self, layer: Any, x: Any, training: bool) -> Any:
        if not isinstance(layer, keras.layers.Dropout):
            return layer(x)
        if len(x.shape) == 2:  # each expert drops other inputs
            x = ops.repeat(ops.expand_dims(x, 0), self.num_experts, axis=0)
        return layer(x, training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        units = [layer.units for layer in self._parts.layers if hasattr(layer, "units")]
        return (input_shape[0], self.num_experts, units[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "layers": self._configs,
        }


class _Untracked:
    """Layers that Keras does not look at, for they hold no variables of the model."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)


def _initializer(layer: Any, part: str, index: int) -> Any:
    # A layer of its own for each expert: an initializer that is one object draws one value.
    own = rebuild(layer, seed_offset=_SEED_STEP * (index + 1))
    return getattr(own, f"{part}_initializer")
