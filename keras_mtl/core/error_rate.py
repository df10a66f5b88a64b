"""The error rate of transcripts, exact over an epoch and over replicas."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import transcripts


@keras.saving.register_keras_serializable(package="keras_mtl")
class ErrorRate(keras.metrics.Metric):
    """Computes insertions, deletions and substitutions per token that was said.

    With characters as tokens it is the character error rate, with words, or with the `separator`
    of words, the word error rate: the sum of the edit distances of all batches by the sum of their
    lengths. It may exceed 1.

    Args:
        separator: Optional integer. The id of the token between words, to count words.
        name: String. Name of the metric.
        dtype: As in Keras.

    Call arguments:
        y_true: Integers `(batch, length)`, padded with 0.
        y_pred: Probabilities or logits `(batch, steps, num_tokens + 1)`, the blank first.
        sample_weight: Optional `(batch,)` or `(batch, length)`, of which the lowest counts.

    Example:

    >>> metric = keras_mtl.metrics.ErrorRate()
    >>> metric.update_state([[1, 2, 2, 1]], np.eye(3)[[[1, 0, 2, 1, 1]]])  # one 2 is not heard
    >>> metric.result()
    0.25
    """

    def __init__(
        self, separator: int | None = None, name: str = "error_rate", dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.separator = separator
        self._direction = "down"
        self._errors = self.add_variable((), "zeros", name="errors")
        self._tokens = self.add_variable((), "zeros", name="tokens")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        expected, found = ops.cast(y_true, "int32"), transcripts.most_likely(y_pred)
        if self.separator is not None:
            expected, found = (transcripts.words(x, self.separator) for x in (expected, found))
        errors = transcripts.edit_distance(expected, found)
        tokens = ops.sum(ops.cast(expected != 0, "int32"), axis=1)
        weights = 1.0 if sample_weight is None else ops.cast(sample_weight, "float32")
        if len(ops.shape(weights)) == 2:
            weights = ops.min(weights, axis=1)
        for variable, part in ((self._errors, errors), (self._tokens, tokens)):
            total = ops.sum(weights * ops.cast(part, "float32"))
            variable.assign_add(ops.cast(total, variable.dtype))

    def result(self) -> Any:
        return ops.divide_no_nan(self._errors, self._tokens)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "separator": self.separator}
