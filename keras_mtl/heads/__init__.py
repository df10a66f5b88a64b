"""Heads: what turns features into one task's predictions, with its loss and metrics."""

from keras_mtl.heads.base import Head as Head
from keras_mtl.heads.binary_classification import BinaryClassification as BinaryClassification
from keras_mtl.heads.classification import Classification as Classification
from keras_mtl.heads.counting import Counting as Counting
from keras_mtl.heads.detection import Detection as Detection
from keras_mtl.heads.ordinal import Ordinal as Ordinal
from keras_mtl.heads.regression import Regression as Regression
from keras_mtl.heads.segmentation import Segmentation as Segmentation
from keras_mtl.heads.tagging import Tagging as Tagging
from keras_mtl.heads.transcription import Transcription as Transcription
