"""Architectures: builder functions, each of `(inputs, trunk, tasks, ...)` to a model."""

from keras_mtl.architectures.aitm import aitm as aitm
from keras_mtl.architectures.branching import branching as branching
from keras_mtl.architectures.build import build_model as build_model
from keras_mtl.architectures.build import registry as _registry
from keras_mtl.architectures.cgc import cgc as cgc
from keras_mtl.architectures.cross_stitch import cross_stitch as cross_stitch
from keras_mtl.architectures.dselect_k import dselect_k as dselect_k
from keras_mtl.architectures.esmm import esmm as esmm
from keras_mtl.architectures.hard_sharing import hard_sharing as hard_sharing
from keras_mtl.architectures.mmoe import mmoe as mmoe
from keras_mtl.architectures.mtan import mtan as mtan
from keras_mtl.architectures.nddr import nddr as nddr
from keras_mtl.architectures.ple import ple as ple
from keras_mtl.architectures.soft_sharing import soft_sharing as soft_sharing
from keras_mtl.architectures.task_conditioned import task_conditioned as task_conditioned

names = _registry.names
get = _registry.get
