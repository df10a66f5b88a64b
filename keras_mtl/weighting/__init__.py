"""Loss weighting: methods that choose task weights from task losses."""

from keras_mtl.core.registry import Registry as _Registry
from keras_mtl.weighting.analytic_uncertainty import AnalyticUncertainty as AnalyticUncertainty
from keras_mtl.weighting.auto_lambda import AutoLambda as AutoLambda
from keras_mtl.weighting.auxilearn import AuxiLearn as AuxiLearn
from keras_mtl.weighting.base import LossWeighting as LossWeighting
from keras_mtl.weighting.coefficient_of_variation import (
    CoefficientOfVariation as CoefficientOfVariation,
)
from keras_mtl.weighting.dynamic_weight_average import DynamicWeightAverage as DynamicWeightAverage
from keras_mtl.weighting.famo import FAMO as FAMO
from keras_mtl.weighting.fixed import Fixed as Fixed
from keras_mtl.weighting.geometric import Geometric as Geometric
from keras_mtl.weighting.go4align import GO4Align as GO4Align
from keras_mtl.weighting.imtl_l import IMTLL as IMTLL
from keras_mtl.weighting.learned import Learned as Learned
from keras_mtl.weighting.loss_balanced import LossBalanced as LossBalanced
from keras_mtl.weighting.random import Random as Random
from keras_mtl.weighting.revised_uncertainty import RevisedUncertainty as RevisedUncertainty
from keras_mtl.weighting.running_scale import RunningScale as RunningScale
from keras_mtl.weighting.scale_invariant import ScaleInvariant as ScaleInvariant
from keras_mtl.weighting.smooth_tchebycheff import SmoothTchebycheff as SmoothTchebycheff
from keras_mtl.weighting.tchebycheff import Tchebycheff as Tchebycheff
from keras_mtl.weighting.uncertainty import Uncertainty as Uncertainty

_registry = _Registry(__name__, LossWeighting, "loss_weighting", default="fixed")
names = _registry.names
get = _registry.get
