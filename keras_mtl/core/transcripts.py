"""Transcripts without times: what steps say in all, and how far that is from what was said.

The blank has id 0, which also pads transcripts to one length.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.core.head_loss import Fault, SequenceLoss

# A logit so low that the probability is 0, and far from overflow.
IMPOSSIBLE = -1e9
# An odd number drawn at random from 63 bits, the base in which characters spell a word.
_BASE = 6364136223846793005


def only_blank(logits: Any, mask: Any) -> Any:
    """Makes the blank certain at padding, which then adds nothing to any transcript.

    Args:
        logits: Tensor `(batch, steps, num_tokens + 1)`.
        mask: Optional boolean tensor `(batch, steps)`, True where there is data.
    """
    if mask is None:
        return logits
    blank = ops.one_hot(0, logits.shape[-1], dtype=logits.dtype)
    silence = ops.where(blank > 0, ops.zeros_like(blank), IMPOSSIBLE)
    return ops.where(ops.expand_dims(ops.cast(mask, "bool"), -1), logits, silence)


def fits(transcripts: Any, steps: Any) -> Any:
    """Returns a boolean tensor `(batch,)`: whether a transcript can be said in so many steps."""
    said = ops.not_equal(transcripts, 0)
    # Equal neighbours need a blank between them.
    again = ops.logical_and(ops.equal(transcripts[:, 1:], transcripts[:, :-1]), said[:, 1:])
    needed = ops.sum(ops.cast(said, "int32"), axis=1) + ops.sum(ops.cast(again, "int32"), axis=1)
    return needed <= steps


def _without_missing(ids: Any, ignore_class: int | None) -> Any:
    if ignore_class is None:
        return ids
    missing = ops.all(ops.equal(ids, ignore_class), axis=1, keepdims=True)
    return ops.where(missing, 0, ids)


@keras.saving.register_keras_serializable(package="keras_mtl")
class TranscriptLoss(SequenceLoss):
    """Computes CTC from the predictions of a `Transcription` head.

    That is `keras.losses.CTC`, from the logits that Keras notes on probabilities. A transcript
    longer than its steps allow has no probability: its loss is 0, and so is its gradient.

    Args:
        from_logits: Boolean. Whether predictions are logits; probabilities by default.
        name: Optional string. Name of the loss.
        kwargs: Further arguments of `keras.Loss`.

    Example:

    >>> loss = keras_mtl.core.transcripts.TranscriptLoss()
    >>> probabilities = [[[0.5, 0.5], [0.5, 0.5]]]  # of the blank and of the only token
    >>> loss([[1]], probabilities)  # three of the four paths say it: -log(3 / 4)
    0.28768

    Reference:
        Graves, Fernandez, Gomez, Schmidhuber 2006, Connectionist temporal classification, ICML,
        eq. 3, https://www.cs.toronto.edu/~graves/icml_2006.pdf.
    """

    def __init__(self, from_logits: bool = False, name: str = "ctc", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits

    def elements(self, y_true: Any, y_pred: Any, labelled: Any, present: Any) -> Any:
        del labelled  # of whole rows, which are left out after the loss
        if present is not None:
            raise ValueError(
                "The padding mask of a transcription must reach its head, before the predictions. "
                "Give the mask to the builder, or call the head with `mask=`, and leave `mask` out "
                "of the `Task`."
            )
        transcripts, logits = ops.cast(y_true, "int32"), self._logits(y_pred)
        spoken = ops.max(logits[..., 1:], axis=-1) - logits[..., 0] > IMPOSSIBLE / 2
        possible = fits(transcripts, ops.sum(ops.cast(spoken, "int32"), axis=1))
        # Replaced before the loss as well, so that no gradient is infinite.
        transcripts = ops.where(ops.expand_dims(possible, 1), transcripts, 0)
        values = keras.losses.ctc(transcripts, logits)
        # Rounding must not make the loss of a certain transcript negative.
        return ops.where(possible, ops.maximum(values, 0.0), 0.0)

    def faults(
        self, labels: Any, ignore_class: int | None, prediction_shape: Sequence[int | None]
    ) -> list[Fault]:
        if len(labels.shape) != 2 or not keras.backend.is_int_dtype(labels.dtype):
            return [
                Fault(True, "must be integers (batch, length), as the head's `encode` returns.")
            ]
        ids = _without_missing(ops.cast(labels, "int64"), ignore_class)
        steps, highest = prediction_shape[1], prediction_shape[-1] - 1
        gaps = ops.logical_and(ids[:, :-1] == 0, ids[:, 1:] != 0)
        gaps = ops.concatenate([gaps, ops.zeros_like(gaps[:, :1])], axis=1)
        marker = "" if ignore_class is None else f", or whole rows of {ignore_class} for no label"
        found = [
            Fault(
                ops.logical_or(ids < 0, ids > highest),
                f"must hold ids from 1 to {highest}, 0 to pad{marker}.",
            ),
            Fault(gaps, "must have 0 at the end only, where it pads: the blank is no label."),
        ]
        if steps is None:
            return found
        long = ops.logical_and(ids > 0, ops.expand_dims(ops.logical_not(fits(ids, steps)), 1))
        message = (
            f"must fit into the {steps} steps of the predictions, with one more between equal "
            "neighbours. Lengthen these by the head's `upsampling`, or shorten the labels."
        )
        return [*found, Fault(long, message)]

    def _logits(self, predictions: Any) -> Any:
        logits = predictions if self.from_logits else getattr(predictions, "_keras_logits", None)
        if logits is None:
            logits = ops.log(ops.maximum(predictions, keras.backend.epsilon()))
        return ops.cast(logits, "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


def most_likely(predictions: Any) -> Any:
    """Returns what the likeliest token of each step says: repeats are one, blanks say nothing.

    >>> steps = [[0, 2, 2, 0, 2, 1]]
    >>> keras_mtl.core.transcripts.most_likely(np.eye(3)[steps])
    [[2, 2, 1, 0, 0, 0]]

    Args:
        predictions: Tensor `(batch, steps, num_tokens + 1)`, probabilities or logits.

    Returns:
        An integer tensor `(batch, steps)`, padded with 0.
    """
    ids = ops.cast(ops.argmax(predictions, axis=-1), "int32")
    before = ops.concatenate([ops.zeros_like(ids[:, :1]), ids[:, :-1]], axis=1)
    ids = ops.where(ops.equal(ids, before), 0, ids)
    places = ops.arange(ops.shape(ids)[1], dtype="int32")
    # All keys differ, so that any sort keeps the order of the tokens.
    order = ops.argsort(ops.where(ids == 0, places + ops.shape(ids)[1], places), axis=1)
    return ops.take_along_axis(ids, order, axis=1)


def words(ids: Any, separator: int) -> Any:
    """Returns one number for each word, the same for the same word.

    Words are the polynomials of their characters modulo 2^64, in which different words have the
    same number once in 10^18 pairs.

    >>> numbers = keras_mtl.core.transcripts.words([[1, 2, 9, 1, 9, 9, 1, 2]], separator=9)[0]
    >>> [bool(numbers[0] == numbers[2]), bool(numbers[0] == numbers[1]), int(numbers[3])]
    [True, False, 0]

    Args:
        ids: Integer tensor `(batch, length)`, padded with 0.
        separator: Integer. The id between words.

    Returns:
        An integer tensor `(batch, length)`, padded with 0.
    """
    ids = ops.cast(ids, "int64")
    rows, length = ops.shape(ids)
    inside = ops.logical_and(ids != 0, ids != separator)
    before = ops.concatenate([ops.zeros_like(inside[:, :1]), inside[:, :-1]], axis=1)
    starts = ops.logical_and(inside, ops.logical_not(before))
    number = ops.cumsum(ops.cast(starts, "int32"), axis=1)
    number = number + (length + 1) * ops.expand_dims(ops.arange(rows, dtype="int32"), 1)

    def by_word(values: Any) -> Any:
        flat = ops.reshape(values, (-1,)), ops.reshape(number, (-1,))
        return ops.segment_sum(*flat, num_segments=rows * (length + 1))

    places = ops.broadcast_to(ops.arange(length, dtype="int32"), ops.shape(ids))
    first = ops.take(by_word(ops.where(starts, places, 0)), number)
    powers = ops.cumprod(ops.full_like(ids[0], _BASE))
    spelt = by_word(ops.where(inside, ids * ops.take(powers, places - first), 0))
    return ops.reshape(spelt, (rows, length + 1))[:, 1:]


def edit_distance(left: Any, right: Any) -> Any:
    """Counts the insertions, deletions and substitutions from one transcript to the other.

    >>> keras_mtl.core.transcripts.edit_distance([[1, 2, 3, 0]], [[2, 4, 3, 3]])
    [3]

    Args:
        left: Integer tensor `(batch, length)`, padded with 0 at the end.
        right: Integer tensor `(batch, other_length)`, likewise.

    Returns:
        An integer tensor `(batch,)`.
    """
    left, right = ops.cast(left, "int64"), ops.cast(right, "int64")
    lengths = [ops.sum(ops.cast(part != 0, "int32"), axis=1) for part in (left, right)]
    last = ops.max(lengths[0] + lengths[1])
    # Cell (i, j) of the table of Levenshtein has place i in diagonal i + j: one depends on two.
    places = ops.arange(ops.shape(left)[1] + 1, dtype="int32")
    first = ops.zeros_like(ops.pad(left, [[0, 0], [1, 0]]), dtype="int32")
    at_end = ops.expand_dims(lengths[0], 1)

    def step(diagonal: Any, before: Any, current: Any, found: Any) -> tuple[Any, ...]:
        column = ops.take(right, ops.clip(diagonal - 1 - places[1:], 0, right_last), axis=1)
        replaced = before[:, :-1] + ops.cast(left != column, "int32")
        inner = ops.minimum(ops.minimum(current[:, 1:], current[:, :-1]) + 1, replaced)
        new = ops.concatenate([ops.zeros_like(inner[:, :1]), inner], axis=1)
        edge = ops.logical_or(places == 0, places >= diagonal)
        new = ops.where(edge, diagonal, new)
        done = lengths[0] + lengths[1] == diagonal
        here = ops.squeeze(ops.take_along_axis(new, at_end, axis=1), axis=1)
        return diagonal + 1, current, new, ops.where(done, here, found)

    right_last = ops.shape(right)[1] - 1
    state = (ops.cast(1, "int32"), first, first, ops.zeros_like(lengths[0]))
    return ops.while_loop(lambda diagonal, *_: diagonal <= last, step, state)[-1]
