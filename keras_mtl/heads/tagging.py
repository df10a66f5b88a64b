"""Tagging: one tag a token, such as the entities of a sentence."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mtl.core import checks, entities
from keras_mtl.core.entity_f1 import EntityF1
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Tagging(DenseHead):
    """Predicts a tag for each token: one dense layer, softmax, and the F1 of entities.

    Predictions are `softmax(W features + b)` at each token. The padding mask goes along: tokens
    of padding reach neither loss nor metrics. Metrics are the accuracy a token and, with a scheme,
    the F1 of entities, where a token without a label is left out as if the sentence did not have
    it: label the first piece of a word, and its other pieces `ignore_class`. The served answer is
    a dict with the ids of the `tags` and their `probabilities`. Adds `(channels + 1) * num_tags`
    parameters.

    Args:
        num_tags: Integer >= 2. Labels are integers from 0 to `num_tags - 1`.
        scheme: `"BIO"` (default), `"BIOES"` or `"BILOU"`: how tags mark entities. `None` where
            they do not, such as parts of speech. BIO reads IOB1 too.
        tags: Optional list of `num_tags` names such as `["O", "B-LOC", "I-LOC"]`. By default tag
            0 is O and the others are the scheme's prefixes type by type: B-0, I-0, B-1, I-1.
        activation: `"softmax"` for probabilities (default), or `None` for logits.
        ignore_class: Optional integer. The label that means "no label"; -1 by default, `None`
            where every label counts.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, steps, channels)`.
    Output shape: `(batch, steps, num_tags)`.

    Raises:
        TypeError: If `num_tags` or `ignore_class` is no integer, or `tags` no list of strings.
        ValueError: If `num_tags` < 2, another argument is not among the above, the tags do not
            fit the scheme, or the features are not one tensor with steps.

    Example:

    >>> head = keras_mtl.heads.Tagging(3, tags=["O", "B-LOC", "I-LOC"])
    >>> head.compute_output_shape((None, 12, 64))
    (None, 12, 3)
    >>> [getattr(metric, "name", metric) for metric in head.default_metrics()]
    ['accuracy', 'f1']
    """

    def __init__(
        self,
        num_tags: int,
        scheme: str | None = "BIO",
        tags: Sequence[str] | None = None,
        activation: str | None = "softmax",
        ignore_class: int | None = -1,
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("softmax", None))
        checks.one_of("scheme", scheme, (*entities.SCHEMES, None))
        if checks.positive_integer("num_tags", num_tags) < 2:
            raise ValueError(f"`num_tags` must be an integer >= 2, received {num_tags}.")
        super().__init__(num_tags, activation, None, ignore_class=ignore_class, **kwargs)
        self.num_tags = num_tags
        self.scheme = scheme
        self.tags = _names(num_tags, scheme, tags)

    def build(self, features_shape: Any) -> None:
        super().build(features_shape)
        if len(features_shape) != 3:
            raise ValueError(
                f"Tagging '{self.name}' needs features of shape (batch, steps, channels), received "
                f"{tuple(features_shape)}. Give it a trunk that keeps the steps, such as "
                "`keras.layers.LSTM(units, return_sequences=True)`."
            )

    def default_loss(self) -> keras.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.activation is None)

    def default_metrics(self) -> list[Any]:
        if self.scheme is None:
            return ["accuracy"]
        return ["accuracy", EntityF1(self.tags)]

    def decode(self, predictions: Any) -> dict[str, Any]:
        tags = keras.ops.cast(keras.ops.argmax(predictions, axis=-1), "int32")
        return {"tags": tags, "probabilities": predictions}

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "num_tags": self.num_tags, "scheme": self.scheme}
        del config["pooling"]
        return {**config, "tags": self.tags}


def _names(num_tags: int, scheme: str | None, tags: Sequence[str] | None) -> list[str] | None:
    """Returns the names of the tags, checked; `None` where there are neither names nor entities."""
    if tags is None:
        found = None if scheme is None else entities.default_tags(num_tags, scheme)
        if scheme is not None and found is None:
            prefixes = ", ".join(f"{prefix}-" for prefix in entities.SCHEMES[scheme])
            raise ValueError(
                f"`num_tags` of scheme '{scheme}' without names must be O and {prefixes} for each "
                f"type, received {num_tags}. Name them: `tags=['O', 'B-LOC', ...]`."
            )
        return found
    if len(tags) != num_tags:
        raise ValueError(
            f"`tags` must have `num_tags` = {num_tags} names, received {len(tags)}: "
            f"{checks.describe(tags)}."
        )
    return list(tags) if scheme is None else entities.check_tags(tags, entities.SCHEMES[scheme])
