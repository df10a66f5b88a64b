"""Heads: what turns features into one task's predictions, with its loss and metrics."""

from keras_mtl.heads.base import Head as Head
