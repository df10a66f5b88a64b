"""Counts of entities, exact over an epoch and over replicas, and their F1."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.core import entities


class EntityScore(keras.metrics.Metric):
    """Base class of metrics that count entities: those right, those expected and those found.

    Args:
        tags: List of strings, the name of each tag.
        name: String. Name of the metric.
        dtype: As in Keras.
    """

    def __init__(self, tags: Sequence[str], name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.tags = entities.check_tags(tags, "BIESLU", "the metric 'accuracy'")
        self._reading = entities.reading(self.tags)
        self._direction = "up"
        names = ("right", "expected", "found")
        self._counts = [self.add_variable((), "zeros", name=part) for part in names]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        expected, y_pred = ops.cast(y_true, "int32"), ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) != 3 or y_pred.shape[-1] != len(self.tags):
            raise ValueError(
                f"{type(self).__name__} '{self.name}' has {len(self.tags)} tags and needs scores "
                f"of them, of shape (batch, steps, {len(self.tags)}), received "
                f"{tuple(y_pred.shape)}. Give it the tags of the head."
            )
        if len(expected.shape) == len(y_pred.shape):
            expected = ops.squeeze(expected, axis=-1)
        found = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        weights = 1.0 if sample_weight is None else ops.cast(sample_weight, "float32")
        while 0 < len(ops.shape(weights)) < len(expected.shape):
            weights = ops.expand_dims(weights, -1)
        weights = ops.broadcast_to(weights, ops.shape(expected))
        parts = entities.count(expected, found, weights, self._reading)
        for variable, part in zip(self._counts, parts, strict=True):
            variable.assign_add(ops.cast(part, variable.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tags": self.tags}


@keras.saving.register_keras_serializable(package="keras_mtl")
class EntityF1(EntityScore):
    """Computes the F1 of entities, as the CoNLL shared tasks do.

    F1 = 2 right / (expected + found), the harmonic mean of precision and recall, and 0 where there
    is neither. An entity is right if its first token, last token and type are. Sequences that
    break the scheme are read as conlleval reads them: an entity may begin with I-.

    Args:
        tags: List of strings, the name of each tag: `"O"`, or one of the prefixes B, I, E, S
            (or L, U) with `-` and a type, such as `"B-LOC"`.
        name: String. Name of the metric.
        dtype: As in Keras.

    Call arguments:
        y_true: Integers `(batch, steps)`.
        y_pred: Scores of the tags `(batch, steps, num_tags)`, of which the highest is chosen.
        sample_weight: Optional `(batch, steps)` or `(batch,)`. Tokens of weight 0 are left out as
            if the row did not have them; an entity has the weight of its first token.

    Raises:
        TypeError: If `tags` is no list of strings.
        ValueError: If a tag has another prefix, or occurs twice.

    Example:

    >>> metric = keras_mtl.metrics.EntityF1(["O", "B-LOC", "I-LOC"])
    >>> scores = np.eye(3)[[[1, 2, 0, 1]]]  # two places, of which one is longer in truth
    >>> metric.update_state([[1, 2, 2, 1]], scores)
    >>> metric.result()
    0.5

    Reference:
        Tjong Kim Sang, De Meulder 2003, Introduction to the CoNLL-2003 shared task, on its
        evaluation by the script conlleval, https://aclanthology.org/W03-0419.
    """

    def __init__(self, tags: Sequence[str], name: str = "f1", dtype: Any = None) -> None:
        super().__init__(tags, name, dtype)

    def result(self) -> Any:
        right, expected, found = self._counts
        return ops.divide_no_nan(2.0 * right, expected + found)
