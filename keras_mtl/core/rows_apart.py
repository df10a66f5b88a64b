"""Which graphs work on each row of a batch by itself."""

from typing import Any

import keras
from keras import layers

from keras_mtl.core.noted_calls import KINDS

# Layers of Keras, without weights or with those of `KINDS`. Others may, but need not, mix rows.
_ROW_BY_ROW = {
    *KINDS,
    *(layers.InputLayer, layers.Identity, layers.Activation, layers.ActivityRegularization),
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax, layers.UnitNormalization),
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


def keeps_rows_apart(operation: Any) -> bool:
    """Whether row i of what the operation gives is known to depend on row i of its inputs alone."""
    if type(operation) is keras.layers.Concatenate:
        return operation.axis % len(operation.output.shape) != 0
    return type(operation) in _ROW_BY_ROW
