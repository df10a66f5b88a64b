"""Transcription: a text from steps, such as those of speech, without the times of its tokens."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mtl.core import checks, transcripts
from keras_mtl.core.error_rate import ErrorRate
from keras_mtl.heads._upsampling import upsample, upsample_mask
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Transcription(DenseHead):
    """Predicts a text from steps, by connectionist temporal classification (CTC).

    Predictions are `softmax(W features + b)` at each step, over the blank, which has id 0, and
    the tokens, of which the first has id 1. The loss is the negative log probability of all ways
    to say the transcript, one value a row; at padding the blank is certain, so padding changes
    nothing. The metric is the error rate of the likeliest tokens, and of words where characters
    and a space spell them. These tokens are what is served: ids `(batch, steps)`, padded with 0,
    which `texts` turns into strings. Adds `(channels + 1) * (len(vocabulary) + 1)` parameters.

    Labels are ids `(batch, length)` from 1 on, padded with 0 at the end; a row of 0 is silence, a
    row of `ignore_class` has no label. `encode` makes them of texts. A transcript too long for its
    steps has no probability and adds 0 to the loss: lengthen the steps by `upsampling`.

    Args:
        vocabulary: String of characters, or list of tokens, each once. Tokens of one character
            spell a text; others are words between spaces.
        activation: `"softmax"` for probabilities (default), or `None` for logits.
        upsampling: Integer >= 1. How many predictions there are for each step; 1 by default.
        ignore_class: Integer < 0 that fills rows without a label; -1 by default. `None` where
            every row has one.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, steps, channels)`.
    Output shape: `(batch, steps * upsampling, len(vocabulary) + 1)`.

    Raises:
        TypeError: If the vocabulary holds no strings, or `ignore_class` is no integer.
        ValueError: If the vocabulary is empty or repeats a token, another argument is not among
            the above, or the features are not one tensor with steps.

    Example:

    >>> head = keras_mtl.heads.Transcription("enot")
    >>> labels = head.encode(["one", "ten", None])
    >>> labels
    [[3, 2, 1], [4, 1, 2], [-1, -1, -1]]
    >>> head.texts(labels)
    ['one', 'ten', '']

    Reference:
        Graves, Fernandez, Gomez, Schmidhuber 2006, Connectionist temporal classification, ICML,
        eq. 3, https://www.cs.toronto.edu/~graves/icml_2006.pdf; best path decoding, section 3.2.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        activation: str | None = "softmax",
        ignore_class: int | None = -1,
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("softmax", None))
        self.vocabulary = _tokens(vocabulary)
        units = len(self.vocabulary) + 1
        super().__init__(units, activation, None, ignore_class=ignore_class, **kwargs)
        if ignore_class is not None and ignore_class >= 0:
            raise ValueError(
                f"`ignore_class` must be < 0, received {ignore_class}: 0 pads transcripts, and "
                "ids from 1 on are tokens."
            )
        self._separator = "" if all(len(token) == 1 for token in self.vocabulary) else " "

    def build(self, features_shape: Any) -> None:
        super().build(features_shape)
        if len(features_shape) != 3:
            raise ValueError(
                f"Transcription '{self.name}' needs features of shape (batch, steps, channels), "
                f"received {tuple(features_shape)}. Give it a trunk that keeps the steps."
            )

    def call(self, features: Any, mask: Any = None) -> Any:
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        logits = upsample(keras.ops.cast(self.dense(features), dtype), self.upsampling, mask)
        finer = None if mask is None else upsample_mask(mask, self.upsampling)
        return self.activate(transcripts.only_blank(logits, finer))

    def compute_mask(self, features: Any, mask: Any = None) -> Any:
        # The predictions say it themselves. Labels have other steps, which no mask fits.
        del features, mask

    def default_loss(self) -> keras.Loss:
        return transcripts.TranscriptLoss(from_logits=self.activation is None)

    def default_metrics(self) -> list[keras.Metric]:
        if self._separator or " " not in self.vocabulary:
            return [ErrorRate()]
        space = self.vocabulary.index(" ") + 1
        return [ErrorRate(), ErrorRate(space, name="word_error_rate")]

    def decode(self, predictions: Any) -> Any:
        return transcripts.most_likely(predictions)

    def encode(self, texts: Sequence[Any]) -> np.ndarray:
        """Returns labels `(len(texts), longest)` for texts; `None` is a row without a label.

        Args:
            texts: List of strings, lists of tokens, or `None`.

        Raises:
            TypeError: If `texts` is one string, or a row is no text and not `None`.
            ValueError: If a text has a token that is not in the vocabulary, or a row has no label
                and `ignore_class` is `None`.
        """
        if isinstance(texts, str):
            raise TypeError(
                f"`texts` must be a list of texts, one a row, received {checks.describe(texts)}. "
                f"Write `[{texts!r}]`."
            )
        if None in texts and self.ignore_class is None:
            row = list(texts).index(None)
            raise ValueError(f"Row {row} of `texts` is None, but the head has no `ignore_class`.")
        rows = {row: self._ids(row, text) for row, text in enumerate(texts) if text is not None}
        longest = max([1, *(len(ids) for ids in rows.values())])
        marker = 0 if self.ignore_class is None else self.ignore_class
        labels = np.full((len(texts), longest), marker, "int32")
        for row, ids in rows.items():
            labels[row] = np.pad(ids, (0, longest - len(ids)))
        return labels

    def _ids(self, row: int, text: Any) -> list[int]:
        if not isinstance(text, Sequence | np.ndarray):
            raise TypeError(
                f"Row {row} of `texts` must be a string or a list of tokens, or None for a row "
                f"without a text, received {checks.describe(text)}."
            )
        spelt = list(text) if self._separator == "" else text
        tokens = spelt.split() if isinstance(spelt, str) else spelt
        unknown = [token for token in tokens if token not in self.vocabulary]
        if unknown:
            raise ValueError(
                f"Row {row} of `texts` has tokens that are not in the vocabulary: {unknown[:5]}. "
                f"Received {checks.describe(text)}."
            )
        return [self.vocabulary.index(token) + 1 for token in tokens]

    def texts(self, ids: Any) -> list[str]:
        """Returns the texts of labels, or of ids that were served, `(batch, length)`.

        Raises:
            ValueError: If `ids` are no such ids, such as predictions before `decode`.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"`ids` must be integers (batch, length), received shape {ids.shape}, dtype "
                f"{ids.dtype}. Of predictions, write `texts(decode(predictions))`."
            )
        tokens = [[self.vocabulary[i - 1] for i in row if i > 0] for row in ids]
        return [self._separator.join(row) for row in tokens]

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "vocabulary": self.vocabulary}
        del config["pooling"]
        return config


def _tokens(vocabulary: Any) -> list[str]:
    tokens = list(vocabulary)
    if not all(isinstance(token, str) for token in tokens):
        raise TypeError(
            "`vocabulary` must be a string or a list of strings, received "
            f"{checks.describe(vocabulary)}."
        )
    if not tokens or "" in tokens or len(set(tokens)) < len(tokens):
        raise ValueError(
            "`vocabulary` must have at least one token, none of them empty and each once, received "
            f"{checks.describe(vocabulary)}. The blank is added by the head."
        )
    return tokens
