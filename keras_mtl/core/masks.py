"""Padding masks that come as a tensor of their own."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_mtl")
class WithMask(keras.layers.Layer):
    """Returns features that carry a padding mask, as if an `Embedding` had made it.

    Layers after it see the mask as Keras' own. A mask the features carried before is replaced.

    Args:
        name: Optional string. Name of the layer.

    Call arguments:
        features: Tensor `(batch, steps, ...)`, or a dict of tensors. Entries of a dict without
            steps, `(batch, channels)`, stay without mask.
        mask: Tensor `(batch, steps)`, given by keyword; true or not 0 where there is data.

    Output shape: that of `features`.

    Raises:
        ValueError: If no feature has steps, or their number is not the mask's.

    Example:

    >>> features, mask = np.ones((1, 3, 2)), np.array([[1, 1, 0]])
    >>> np.array(keras_mtl.core.masks.WithMask()(features, mask=mask)._keras_mask)
    [[True, True, False]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, features: Any, *, mask: Any) -> Any:
        self._check(features, mask)
        # Copies, because a mask that a tensor carries already cannot be replaced.
        return keras.tree.map_structure(ops.copy, features)

    def compute_mask(self, features: Any, mask: Any = None) -> Any:
        carried = ops.cast(mask, "bool")
        if not isinstance(features, Mapping):
            return carried
        return {key: carried if _has_steps(x) else None for key, x in features.items()}

    def compute_output_spec(self, features: Any, *, mask: Any) -> Any:
        self._check(features, mask)
        return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), features)

    def _check(self, features: Any, mask: Any) -> None:
        shapes = [tuple(x.shape) for x in keras.tree.flatten(features) if _has_steps(x)]
        if not shapes or len(mask.shape) != 2:
            raise ValueError(
                "A padding mask needs features of shape (batch, steps, channels) and a mask of "
                f"shape (batch, steps), received features of shape {_shapes(features)} and a "
                f"mask of shape {tuple(mask.shape)}."
            )
        steps = {shape[1] for shape in shapes if None not in (shape[1], mask.shape[1])}
        if steps - {mask.shape[1]}:
            raise ValueError(
                f"The padding mask has {mask.shape[1]} steps, the features {sorted(steps)}: "
                f"shapes {tuple(mask.shape)} and {_shapes(features)}. Give a mask with the steps "
                "that the trunk leaves, for example as one of its outputs."
            )


def check_fit(masks: Mapping[str, str | None], outputs: Mapping[str, Any], inputs: Any) -> None:
    """Refuses padding masks for outputs that have no steps left.

    Args:
        masks: Dict from task name to the name of its mask, or `None`.
        outputs: Dict from task name to its symbolic output or structure of outputs.
        inputs: List of the model's inputs, the masks among them.
    """
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    for task, name in masks.items():
        if name is None or isinstance(outputs[task], Mapping):
            continue
        mask, output = shapes[name], tuple(outputs[task].shape)
        while mask[-1:] == (1,):
            mask = mask[:-1]
        # The steps may be the last axis: one number each.
        fits = len(mask) == len(output) and output[-1] in (None, mask[-1])
        if len(mask) >= len(output) and not fits:
            raise ValueError(
                f"`mask='{name}'` of task '{task}' must have an entry for each step of its output, "
                f"received a mask of shape {shapes[name]} and an output of shape {output}. Leave "
                "it out where steps are pooled: what pools them is to read the mask."
            )


def _has_steps(features: Any) -> bool:
    return len(features.shape) > 2


def _shapes(features: Any) -> Any:
    return keras.tree.map_structure(lambda x: str(tuple(x.shape)), features)
