"""Callbacks: what acts on the tasks during `fit`."""

from keras_mtl.callbacks.average_precision import AveragePrecision as AveragePrecision
from keras_mtl.callbacks.gate_monitor import GateMonitor as GateMonitor
from keras_mtl.callbacks.gradient_conflict_monitor import (
    GradientConflictMonitor as GradientConflictMonitor,
)
from keras_mtl.callbacks.loss_weight_schedule import LossWeightSchedule as LossWeightSchedule
from keras_mtl.callbacks.task_early_stopping import TaskEarlyStopping as TaskEarlyStopping
