"""The precision of entities."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.core.entity_scores import EntityScore


@keras.saving.register_keras_serializable(package="keras_mtl")
class EntityPrecision(EntityScore):
    """Computes which part of the entities that were found are right.

    Precision = right / found, and 0 where none was found. An entity is right if its first
    token, last token and type are. Sequences that break the scheme are read as conlleval reads
    them: an entity may begin with I-.

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

    >>> metric = keras_mtl.metrics.EntityPrecision(["O", "B-LOC", "I-LOC"])
    >>> metric.update_state([[1, 0, 1]], np.eye(3)[[[1, 0, 0]]])  # one of two places
    >>> metric.result()
    1.0

    Reference:
        Tjong Kim Sang, De Meulder 2003, Introduction to the CoNLL-2003 shared task, on its
        evaluation by the script conlleval, https://aclanthology.org/W03-0419.
    """

    def __init__(self, tags: Sequence[str], name: str = "precision", dtype: Any = None) -> None:
        super().__init__(tags, name, dtype)

    def result(self) -> Any:
        right, _, found = self._counts
        return ops.divide_no_nan(right, found)
