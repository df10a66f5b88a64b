"""What layers have found in data by `adapt`, which their configs do not hold."""

from collections.abc import Iterator
from typing import Any

import keras

_LOOKUPS = (keras.layers.IntegerLookup, keras.layers.StringLookup)


def carry_adapted(original: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives a copy what the layers of the original have adapted to, so that it computes the same.

    Args:
        original: Keras layer or model.
        copy: Layer or model made from its config.

    Raises:
        ValueError: If the copy has no layers to take it.
    """
    adapted, takers = list(_adaptable(original)), list(_adaptable(copy))
    if list(map(type, adapted)) != list(map(type, takers)):
        _refuse(original, [layer for layer in adapted if _has_adapted(layer)])
        return
    for layer, taker in zip(adapted, takers, strict=True):
        if not _has_adapted(layer):
            continue
        if isinstance(layer, _LOOKUPS):
            _carry_vocabulary(layer, taker)
            continue
        if not taker.built:
            taker.build_from_config(layer.get_build_config())
        taker.set_weights(layer.get_weights())
        # Normalization computes with tensors made of its weights, which `set_weights` leaves.
        getattr(taker, "finalize_state", lambda: None)()


def _adaptable(layer: keras.layers.Layer) -> Iterator[Any]:
    for inner in layer._flatten_layers():
        if callable(getattr(inner, "adapt", None)):
            yield inner


def _has_adapted(layer: Any) -> bool:
    if isinstance(layer, _LOOKUPS):
        return bool(layer.get_vocabulary(include_special_tokens=False))
    # Weights that are trained are no part of what a layer is; boundaries of bins are in the config.
    return layer.built and bool(layer.weights) and not layer.trainable_weights


def _refuse(original: keras.layers.Layer, adapted: list[Any]) -> None:
    if not adapted:
        return
    inner = ", ".join(f"'{layer.name}' of type {type(layer).__name__}" for layer in adapted)
    raise ValueError(
        f"Layer '{original.name}' of type {type(original).__name__} cannot be rebuilt with what "
        f"its layers have adapted to: {inner}. Make these layers in `__init__`, not later, so that "
        "the copy has them too."
    )


def _carry_vocabulary(lookup: Any, copy: Any) -> None:
    vocabulary, weights = lookup.get_vocabulary(), None
    if lookup.output_mode == "tf_idf":
        # The rest are zeros up to `max_tokens`, which the copy adds again.
        weights = lookup.idf_weights_const[: len(vocabulary)]
    copy.set_vocabulary(vocabulary, idf_weights=weights)
