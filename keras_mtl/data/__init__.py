"""Data: what feeds a model from one data set or from several."""

from keras_mtl.data.mix import mix as mix
