"""What a forward pass in training moves beside its outputs, so that further ones leave no trace."""

from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas


class SideEffects:
    """The random states and the running statistics of a model's layers.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        layers = list(model._flatten_layers(include_self=False))
        self._seeds = [seed.state for layer in layers for seed in layer._seed_generators]
        self._statistics = list(model.non_trainable_weights)

    def read(self) -> list[Any]:
        """Returns the values now."""
        return [tf.identity(variable.value) for variable in [*self._seeds, *self._statistics]]

    def rewind_random_states(self, values: list[Any]) -> None:
        """Sets the random states to those of `read`: the next pass has the same dropout masks."""
        replicas.assign(self._seeds, values[: len(self._seeds)])

    def restore(self, values: list[Any]) -> None:
        """Sets everything to what `read` returned."""
        replicas.assign([*self._seeds, *self._statistics], values)
