"""Gradient balancing: methods that combine task gradients into one direction."""

from keras_mtl.balancing.aligned_mtl import AlignedMTL as AlignedMTL
from keras_mtl.balancing.base import GradientBalancing as GradientBalancing
from keras_mtl.balancing.base_gramian import GramianBalancing as GramianBalancing
from keras_mtl.balancing.cagrad import CAGrad as CAGrad
from keras_mtl.balancing.config import ConFIG as ConFIG
from keras_mtl.balancing.cosine_gate import CosineGate as CosineGate
from keras_mtl.balancing.db_mtl import DBMTL as DBMTL
from keras_mtl.balancing.dual_proj import DualProj as DualProj
from keras_mtl.balancing.excess_mtl import ExcessMTL as ExcessMTL
from keras_mtl.balancing.fairgrad import FairGrad as FairGrad
from keras_mtl.balancing.graddrop import GradDrop as GradDrop
from keras_mtl.balancing.gradnorm import GradNorm as GradNorm
from keras_mtl.balancing.gradvac import GradVac as GradVac
from keras_mtl.balancing.imtl_g import IMTLG as IMTLG
from keras_mtl.balancing.metabalance import MetaBalance as MetaBalance
from keras_mtl.balancing.mgda import MGDA as MGDA
from keras_mtl.balancing.moco import MoCo as MoCo
from keras_mtl.balancing.modo import MoDo as MoDo
from keras_mtl.balancing.momentum_config import MomentumConFIG as MomentumConFIG
from keras_mtl.balancing.nash_mtl import NashMTL as NashMTL
from keras_mtl.balancing.pcd import PCD as PCD
from keras_mtl.balancing.pcgrad import PCGrad as PCGrad
from keras_mtl.balancing.random import Random as Random
from keras_mtl.balancing.sdmgrad import SDMGrad as SDMGrad
from keras_mtl.balancing.smoothed import Smoothed as Smoothed
from keras_mtl.balancing.upgrad import UPGrad as UPGrad
from keras_mtl.core.registry import Registry as _Registry

_registry = _Registry(__name__, GradientBalancing, "gradient_balancing")
names = _registry.names
get = _registry.get
