"""Multi-task learning with Keras 3 on TensorFlow."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_mtl needs Keras on the TensorFlow backend, found backend "
        f"'{_keras.backend.backend()}'. Set the environment variable KERAS_BACKEND=tensorflow "
        "before importing keras."
    )

from keras_mtl import architectures as architectures
from keras_mtl import balancing as balancing
from keras_mtl import callbacks as callbacks
from keras_mtl import data as data
from keras_mtl import heads as heads
from keras_mtl import metrics as metrics
from keras_mtl import plots as plots
from keras_mtl import weighting as weighting
from keras_mtl.architectures import build_model as build_model
from keras_mtl.model import MultiTaskModel as MultiTaskModel
from keras_mtl.task import Task as Task

__version__ = "0.1.0"
