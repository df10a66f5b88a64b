"""Data: what feeds a model from one data set or from several."""

from keras_mtl.data.class_names import class_names as class_names
from keras_mtl.data.concatenate import concatenate as concatenate
from keras_mtl.data.from_tfds import from_tfds as from_tfds
from keras_mtl.data.mix import mix as mix
from keras_mtl.data.multi_mnist import multi_mnist as multi_mnist
from keras_mtl.data.split_by_group import split_by_group as split_by_group
