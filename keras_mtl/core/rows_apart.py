"""Which graphs work on each row of a batch by itself."""

from typing import Any

import keras
from keras import layers

from keras_mtl.core.noted_calls import KINDS

# Layers of Keras, without weights or with those of `KINDS`. Others may, but need not, mix rows.
_ROW_BY_ROW = {
    *KINDS,
    *(layers.InputLayer, layers.Identity, layers.Activation, layers.ActivityRegularization),
    *(layers.ReLU, layers.LeakyReLU, layers.ELU),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
    *(layers.Maximum, layers.Minimum),
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Masking),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.Rescaling, layers.Normalization, layers.Resizing, layers.CenterCrop),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    layers.GlobalAveragePooling3D,
}


# These may work along the first axis, on which the rows are.
_ALONG_AXES = {layers.Concatenate, layers.Softmax, layers.UnitNormalization}


def keeps_rows_apart(operation: Any) -> bool:
    """Whether row i of what the operation gives is known to depend on row i of its inputs alone."""
    kind = type(operation)
    if kind in _ALONG_AXES:
        rank = len(operation.output.shape)
        return all(axis % rank != 0 for axis in keras.tree.flatten(operation.axis))
    return kind in _ROW_BY_ROW and _is_of_keras(getattr(operation, "activation", None))


def _is_of_keras(activation: Any) -> bool:
    """Whether an activation is none or a function of Keras: another one might mix rows."""
    module = getattr(activation, "__module__", "")
    return activation is None or module.startswith("keras.src.activations.")
