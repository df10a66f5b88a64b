"""What each metric of Keras is fed, where the columns of a label miss one by one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core.labels import Elements, fit
from keras_mtl.core.losses import ELEMENTWISE, function_of, is_of_keras

# From elements, the user's weights and `counted` to labels, predictions and weights of a metric.
Way = Callable[[Elements, Any, Any], tuple[Any, Any, Any]]

_ELEMENTWISE_METRICS = (*ELEMENTWISE, keras.metrics.binary_accuracy)
# Take a weight for each element.
_BY_ELEMENT = (
    keras.metrics.AUC,
    keras.metrics.Accuracy,
    keras.metrics.FalseNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.Precision,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.R2Score,
    keras.metrics.Recall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.RootMeanSquaredError,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
    keras.metrics.TrueNegatives,
    keras.metrics.TruePositives,
)
# Measure one class where they have a `class_id`.
_OF_ONE_CLASS = (
    keras.metrics.Precision,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.Recall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
)
_OF_ROWS = (
    keras.metrics.ConcordanceCorrelation,
    keras.metrics.CosineSimilarity,
    keras.metrics.PearsonCorrelation,
)
# Compare the columns of a row with each other, or take them for a distribution.
_FUNCTIONS_OF_ROWS = (
    keras.metrics.categorical_accuracy,
    keras.metrics.categorical_crossentropy,
    keras.metrics.categorical_hinge,
    keras.metrics.kl_divergence,
    keras.metrics.top_k_categorical_accuracy,
)


def way_for(metric: Any) -> Way:
    """Returns how a metric that takes weights is fed."""
    by_column = _way_by_column(metric)

    def feed(elements: Elements, weight: Any, counted: Any) -> tuple[Any, Any, Any]:
        way = by_column if _has_columns(elements) else _by_row
        labels, predictions, weights = way(elements, weight, counted)
        if weight is None and "int" in str(getattr(metric, "dtype", "")):
            # Counts in integers, and warns of weights that are none.
            weights = tf.cast(weights, tf.int32)
        return labels, predictions, weights

    return feed


def _way_by_column(metric: Any) -> Way:
    if isinstance(metric, _OF_ONE_CLASS) and metric.class_id is not None:
        return partial(_one_column, metric.class_id)
    if isinstance(metric, keras.metrics.FBetaScore) and metric.threshold is not None:
        return _without_gaps
    if reads_whole_rows(metric):
        return _by_row
    if isinstance(metric, keras.metrics.IoU):
        plain = is_of_keras(metric) and metric.sparse_y_true and metric.sparse_y_pred
        return _by_element if plain else _by_row
    if isinstance(metric, _BY_ELEMENT):
        return _by_element
    return _one_by_one if function_of(metric) in _ELEMENTWISE_METRICS else _by_row


def reads_whole_rows(metric: Any) -> bool:
    """Whether a metric of Keras compares or ranks the columns of a row, and so needs all."""
    if isinstance(metric, keras.metrics.FBetaScore):
        return metric.threshold is None
    if isinstance(metric, keras.metrics.Precision | keras.metrics.Recall):
        return metric.top_k is not None and metric.class_id is None
    if isinstance(metric, _OF_ROWS):
        return not compares_rows(metric)
    return function_of(metric) in _FUNCTIONS_OF_ROWS


def compares_rows(metric: Any) -> bool:
    """Whether a metric has a value for each column, over the rows of a batch."""
    axis = getattr(metric, "_fn_kwargs", {}).get("axis", -1)
    return 0 in (axis if isinstance(axis, list | tuple) else [axis])


def _has_columns(elements: Elements) -> bool:
    labels, predictions = elements.labels, elements.predictions
    if isinstance(labels, dict) or isinstance(predictions, dict):
        return False
    return labels.shape.rank == predictions.shape.rank and predictions.shape[-1] != 1


def _by_row(elements: Elements, weight: Any, counted: Any) -> tuple[Any, Any, Any]:
    weights = _weights(elements, weight, _reference(elements), counted)
    return elements.labels, elements.predictions, weights


def _by_element(elements: Elements, weight: Any, counted: Any) -> tuple[Any, Any, Any]:
    weights = _weights(elements, weight, elements.labels, counted)
    return elements.labels, elements.predictions, weights


def _one_by_one(elements: Elements, weight: Any, counted: Any) -> tuple[Any, Any, Any]:
    # Each element as a row of its own: these are means over the last axis.
    predictions = tf.reshape(elements.predictions, (-1, 1))
    if hasattr(elements.predictions, "_keras_logits"):
        predictions._keras_logits = tf.reshape(elements.predictions._keras_logits, (-1, 1))
    labels, _, weights = _by_element(elements, weight, counted)
    return tf.reshape(labels, (-1, 1)), predictions, tf.reshape(weights, (-1,))


def _one_column(
    class_id: int, elements: Elements, weight: Any, counted: Any
) -> tuple[Any, Any, Any]:
    labels, predictions, weights = _by_element(elements, weight, counted)
    return labels, predictions, weights[..., class_id]


def _without_gaps(elements: Elements, weight: Any, counted: Any) -> tuple[Any, Any, Any]:
    # A missing label is 0, as is its prediction then: a true negative, which no F score reads.
    labels, predictions, weights = _by_row(replace(elements, mask=None), weight, counted)
    if elements.mask is not None:
        predictions = tf.where(elements.mask, predictions, tf.zeros_like(predictions))
    return labels, predictions, weights


def _reference(elements: Elements) -> Any:
    """Returns a tensor in the shape of what most metrics compute from the predictions."""
    labels, predictions = elements.labels, elements.predictions
    if isinstance(predictions, dict) or isinstance(labels, dict):
        first = tf.nest.flatten(predictions)[0]
        return tf.reshape(first, (tf.shape(first)[0], -1))[:, 0]
    if labels.shape.rank < predictions.shape.rank:
        return labels
    return predictions[..., 0] if predictions.shape.rank > 1 else predictions


def _weights(elements: Elements, weight: Any, values: Any, counted: Any) -> Any:
    mask = elements.counted(values)
    product = tf.ones(tf.shape(values)) if mask is None else tf.cast(mask, tf.float32)
    if weight is not None:
        product *= fit(weight, values)
    return product if counted is None else product * tf.cast(counted, tf.float32)
