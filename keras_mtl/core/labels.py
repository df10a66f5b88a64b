"""Missing labels, padding and weights: which elements of a batch count, and how much."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas


@dataclass(frozen=True)
class Elements:
    """One task's labels in a batch, with what decides which of their elements count.

    Args:
        labels: Tensor or dict of tensors, missing entries replaced by 0.
        predictions: Tensor or dict of tensors.
        mask: Optional boolean tensor, shaped as the labels or `(batch,)`; False where no label.
        padding: Optional boolean tensor, the Keras mask of the predictions.
        rows: Optional boolean tensor `(batch,)`; False where the task does not apply.
        weight: Optional float tensor: the user's sample weights times class weights.
    """

    labels: Any
    predictions: Any
    mask: Any = None
    padding: Any = None
    rows: Any = None
    weight: Any = None

    def counted(self, values: Any) -> Any:
        """Returns the mask for per-element `values`, in their shape, or `None` for all."""
        masks = [fit_mask(self.mask, values)] if self.mask is not None else []
        masks += [fit(part, values) for part in (self.padding, self.rows) if part is not None]
        if not masks:
            return None
        both = masks[0]
        for part in masks[1:]:
            both = tf.logical_and(both, part)
        return tf.broadcast_to(both, tf.shape(values))

    def zero_unless(self, counted: Any) -> "Elements":
        """Returns the elements with labels and predictions 0 unless the scalar `counted` holds.

        For a batch that must not count: NaN and infinity times a weight of 0 are NaN.
        """
        parts = tf.nest.map_structure(
            lambda part: _zero_unless(counted, part), (self.labels, self.predictions)
        )
        return replace(self, labels=parts[0], predictions=parts[1])

    def half(self, second: bool) -> "Elements":
        """Returns the elements with one half of the rows of the global batch alone counted."""
        rows = tf.shape(tf.nest.flatten(self.labels)[0])[0]
        # Counted over all replicas, which so split a batch as one device does.
        place = replicas.sum_before(rows) + tf.range(rows)
        chosen = tf.equal(place >= middle(replicas.total([rows])[0]), second)
        kept = chosen if self.rows is None else tf.logical_and(self.rows, chosen)
        return replace(self, rows=kept)

    @property
    def complete(self) -> bool:
        """Whether every element counts, whatever the data."""
        return self.mask is None and self.padding is None and self.rows is None


def middle(rows: Any) -> Any:
    """Returns how many of so many rows are the first half of a batch."""
    return (rows + 1) // 2


def _zero_unless(counted: Any, tensor: Any) -> Any:
    chosen = tf.where(counted, tensor, tf.zeros_like(tensor))
    if hasattr(tensor, "_keras_logits"):
        # Metrics that are cross-entropies read these.
        chosen._keras_logits = _zero_unless(counted, tensor._keras_logits)
    return chosen


def fit(weights: Any, values: Any, noun: str = "A mask or `sample_weight`") -> Any:
    """Gives `weights` the rank of `values`: trailing axes of 1 are dropped or added.

    Args:
        weights: Tensor.
        values: Tensor of one value an element.
        noun: String. What the weights are, for the message.
    """
    if weights.shape.rank is None:
        raise ValueError(
            "`sample_weight` has an unknown rank, or another one than in an earlier call. Give "
            "every batch weights of the same rank."
        )
    while weights.shape.rank > values.shape.rank:
        if weights.shape[-1] != 1:
            raise ValueError(
                f"{noun} of shape {tuple(weights.shape)} does not fit losses of "
                f"shape {tuple(values.shape)}. Give one entry a row, or one an element."
            )
        weights = tf.squeeze(weights, -1)
    while weights.shape.rank < values.shape.rank:
        weights = tf.expand_dims(weights, -1)
    return weights


def fit_mask(mask: Any, values: Any) -> Any:
    """Gives a label mask the rank of `values`; an element counts where its whole label is there."""
    while mask.shape.rank > values.shape.rank:
        mask = tf.reduce_all(mask, axis=-1)
    return fit(mask, values)


def without_coarse_mask(predictions: Any) -> Any:
    """Returns predictions without a Keras mask that has fewer axes than they have elements.

    Losses and metrics of Keras multiply by it, and cannot where it has an entry a row of pixels.
    """
    mask = getattr(predictions, "_keras_mask", None)  # none in a dict of predictions
    if mask is None or mask.shape.rank >= predictions.shape.rank - 1:
        return predictions
    plain = tf.identity(predictions)
    if hasattr(predictions, "_keras_logits"):
        plain._keras_logits = predictions._keras_logits
    return plain


def split_missing(labels: Any, ignore_class: int | None) -> tuple[Any, Any]:
    """Returns the labels with missing entries set to 0, and the mask of those present.

    Missing is NaN in float labels and `ignore_class` in integer labels. The labels are replaced
    *before* any loss sees them, since NaN times a weight of 0 is NaN.

    Returns:
        The labels and a boolean mask: `None` if nothing can be missing; in the labels' shape;
        `(batch,)` for a dict of labels, whose rows count where all entries are there.
    """
    if isinstance(labels, Mapping):
        parts = {key: split_missing(value, ignore_class) for key, value in labels.items()}
        masks = [_rows(mask) for _, mask in parts.values() if mask is not None]
        present = tf.reduce_all(tf.stack(masks), axis=0) if masks else None
        return {key: value for key, (value, _) in parts.items()}, present
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_floating:
        missing = tf.math.is_nan(labels)
    elif labels.dtype.is_integer and _holds(labels.dtype, ignore_class):
        missing = tf.equal(labels, tf.cast(ignore_class, labels.dtype))
    else:
        return labels, None
    return tf.where(missing, tf.zeros_like(labels), labels), tf.logical_not(missing)


def _holds(dtype: Any, ignore_class: int | None) -> bool:
    # A cast would wrap: -1 is 255 in uint8, and 255 a class.
    return ignore_class is not None and dtype.min <= ignore_class <= dtype.max


def _rows(mask: Any) -> Any:
    return tf.reduce_all(tf.reshape(mask, (tf.shape(mask)[0], -1)), axis=1)


def align(labels: Any, predictions: Any) -> Any:
    """Adds the last axis of 1 that predictions such as `(batch, 1)` have over their labels."""
    if isinstance(labels, Mapping) or isinstance(predictions, Mapping):
        return labels
    one_more = predictions.shape.rank == labels.shape.rank + 1
    return tf.expand_dims(labels, -1) if one_more and predictions.shape[-1] == 1 else labels


def positive_rows(labels: Any, ignore_class: int | None) -> Any:
    """Returns a boolean tensor `(batch,)`: rows whose label is there and positive."""
    labels, mask = split_missing(labels, ignore_class)
    labels = tf.cast(labels, tf.int32) if labels.dtype.is_bool else labels
    positive = labels > tf.zeros_like(labels)
    if mask is not None:
        positive = tf.logical_and(positive, mask)
    return tf.reduce_any(tf.reshape(positive, (tf.shape(positive)[0], -1)), axis=1)


def times(*weights: Any) -> Any:
    """Returns the product of the weights that are given, or `None`."""
    given = [tf.cast(weight, tf.float32) for weight in weights if weight is not None]
    if not given:
        return None
    highest = max(given, key=lambda weight: weight.shape.rank)
    product = highest
    for weight in given:
        if weight is not highest:
            product = product * fit(weight, highest)
    return product
