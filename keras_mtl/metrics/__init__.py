"""Metrics of the heads that Keras does not have, for `compile(metrics={task: [...]})`."""

from keras_mtl.core.entity_scores import EntityF1 as EntityF1
from keras_mtl.core.error_rate import ErrorRate as ErrorRate
from keras_mtl.metrics.entity_precision import EntityPrecision as EntityPrecision
from keras_mtl.metrics.entity_recall import EntityRecall as EntityRecall
