"""DSelect-k: shared experts, of which each task's gate selects at most k."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._experts import Experts, mix
from keras_mtl.architectures._gates import gate_features, softmax
from keras_mtl.core import checks
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel


def dselect_k(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    num_experts: int = 4,
    k: int = 2,
    gamma: float = 1.0,
    entropy_regularization: float = 0.01,
    per_example: bool = True,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds a mixture of experts with sparse, differentiable gates (DSelect-k).

    Each expert is a copy of the trunk, as in `mmoe`. The gate of a task has k selectors, each of
    m = ceil(log2(num_experts)) bits. With the smooth step S, which is 0 below -gamma / 2, 1 above
    gamma / 2 and `-2 t^3 / gamma^3 + 3 t / (2 gamma) + 1/2` between, selector i gives expert e

        r_i(e) = prod_b (S(z_ib) if bit b of e is 1, else 1 - S(z_ib)),

    and the gate's weights are `sum_i softmax(w)_i r_i(e)`. z and w are affine in what the experts
    read, averaged over the axes between batch and channels, or learned constants. Once each bit
    is 0 or 1, at most k experts have weight; until then all may.

    Experts are named as in `mmoe`, gates `<task>_gate`, their weights are float32. Parameters:
    `num_experts` times those of the trunk, `(channels + 1) * k * (m + 1)` a gate, or
    `k * (m + 1)` with `per_example=False`, and those of each tower and head.

    Experts are shared by all tasks, gates are private; sharing ends at the experts' outputs.

    Args:
        inputs: As in `hard_sharing`; of floats, but for masks, which gates do not read.
        trunk: As in `hard_sharing`; rebuilt for each expert, with other initial values in each.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        num_experts: Integer >= 2. Where it is no power of 2, some codes stand for no expert;
            `1 / sum_e r_i(e) - 1`, summed over selectors, is added to the loss of each gate and
            drives them out. Until then the weights sum to less than 1.
        k: Integer from 1 to `num_experts`. Selectors of a gate.
        gamma: Float > 0. Width of the smooth step: a larger one keeps bits undecided for longer.
        entropy_regularization: Float >= 0. Adds this times the entropy of each selector to the
            loss of each gate, which makes it decide.
        per_example: Boolean. Whether gates choose for each example, or for the task as a whole.
        copy_weights: Boolean. Whether every expert starts from the trunk's weights.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or an option is something else.
        ValueError: If an option is out of range, the inputs or features hold no floats, the
            trunk cannot be rebuilt, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = keras.layers.Dense(5, activation="relu")
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.dselect_k(inputs, trunk, tasks, num_experts=4, k=2)
    >>> experts, gates, heads = 4 * (8 + 1) * 5, 2 * (8 + 1) * 2 * (2 + 1), (5 + 1) * (1 + 3)
    >>> model.count_params() == experts + gates + heads
    True

    Reference:
        Hazimeh et al. 2021, DSelect-k: Differentiable selection in the mixture of experts with
        applications to multi-task learning, https://arxiv.org/abs/2106.03760, and the code,
        https://github.com/google-research/google-research/tree/master/dselect_k_moe.
        Differs from the code: regularisers are means over the batch of each replica, not sums;
        1 is taken from that of codes without expert, so that it ends at 0, and below a sum of
        0.01 it goes on as its tangent, so that it stays finite; the entropy counts by default.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    gates = {
        key: SelectingGate(
            num_experts, k, gamma, entropy_regularization, per_example, name=f"{key}_gate"
        )
        for key in tasks
    }
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    layers = _graph.task_layers(tasks)

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    experts = Experts(stages, num_experts, read, copy_weights=copy_weights)
    pooled = gate_features(read)
    outputs = {}
    for key, task in tasks.items():
        mixed = mix(gates[key](pooled), [experts], f"{key}_mixture")
        outputs[key] = _graph.task_output(key, task, layers[key], mixed, sources)

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


@keras.saving.register_keras_serializable(package="keras_mtl")
class SelectingGate(keras.layers.Layer):
    """Gives at most k experts a weight, once its bits are decided; see `dselect_k`.

    Args:
        num_experts: Integer >= 2.
        k: Integer from 1 to `num_experts`.
        gamma: Float > 0.
        entropy_regularization: Float >= 0.
        per_example: Boolean.
        name: Optional string. Name of the layer.

    Input shape: `(batch, channels)`.
    Output shape: `(batch, num_experts)`, float32 or finer; each row sums to 1 where all selectors
        choose experts.
    """

    is_gate = True

    def __init__(
        self,
        num_experts: int,
        k: int = 2,
        gamma: float = 1.0,
        entropy_regularization: float = 0.01,
        per_example: bool = True,
        **kwargs: Any,
    ) -> None:
        # Not in half precision, whose few digits a product of bits would use up.
        variables = keras.config.dtype_policy().variable_dtype
        kwargs.setdefault("dtype", keras.backend.result_type(variables, "float32"))
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_experts = checks.positive_integer("num_experts", num_experts)
        self.k = checks.positive_integer("k", k)
        self.gamma = checks.positive_number("gamma", gamma)
        self.entropy_regularization = checks.finite_number(
            "entropy_regularization", entropy_regularization, minimum=0
        )
        checks.one_of("per_example", per_example, (False, True))
        self.per_example = per_example
        _check_counts(num_experts, k)
        self.num_bits = math.ceil(math.log2(num_experts))
        # Row e holds the bits of e, the highest first.
        places = np.arange(self.num_bits)[::-1]
        self._codes = (np.arange(num_experts)[:, None] >> places) % 2 == 1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1] if self.per_example else 0
        # Rows for the channels, and the last one for the constants. Undecided, but not quite
        # equal, for between equal selectors nothing decides.
        self.bit_weights = self._affine("bit_weights", channels, self.k * self.num_bits, self.gamma)
        self.selector_weights = self._affine("selector_weights", channels, self.k, 5.0)

    def _affine(self, name: str, channels: int, units: int, scale: float) -> Any:
        initializer = keras.initializers.RandomUniform(-scale / 100, scale / 100)
        return self.add_weight(shape=(channels + 1, units), initializer=initializer, name=name)

    def call(self, inputs: Any) -> Any:
        bits = smooth_step(self._logits(inputs, self.bit_weights), self.gamma)
        selectors = self._selectors(ops.reshape(bits, (-1, self.k, self.num_bits, 1)))
        self._add_penalties(selectors)
        logits = self._logits(inputs, self.selector_weights)
        weights = ops.sum(ops.expand_dims(softmax(logits), -1) * selectors, axis=1)
        return ops.broadcast_to(weights, (ops.shape(inputs)[0], self.num_experts))

    def _logits(self, inputs: Any, weights: Any) -> Any:
        """Returns `(batch, units)`, or `(1, units)` of gates that do not read the examples."""
        constants = weights[-1:]
        return ops.matmul(inputs, weights[:-1]) + constants if self.per_example else constants

    def _selectors(self, bits: Any) -> Any:
        """Returns `(batch, k, num_experts)`, what each selector gives each expert."""
        factors = [
            ops.where(self._codes[:, place], bits[:, :, place], 1.0 - bits[:, :, place])
            for place in range(self.num_bits)
        ]
        return math.prod(factors[1:], start=factors[0])

    def _add_penalties(self, selectors: Any) -> None:
        if self.entropy_regularization:
            entropy = -ops.sum(selectors * ops.log(ops.maximum(selectors, 1e-6)), axis=(1, 2))
            self.add_loss(self.entropy_regularization * _batch_mean(entropy))
        if self.num_experts < 2**self.num_bits:
            total = ops.sum(selectors, axis=-1)
            self.add_loss(_batch_mean(ops.sum(_barrier(total) - 1.0, axis=-1)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "k": self.k,
            "gamma": self.gamma,
            "entropy_regularization": self.entropy_regularization,
            "per_example": self.per_example,
        }


def smooth_step(t: Any, gamma: float) -> Any:
    """Returns 0 below -gamma / 2, 1 above gamma / 2, and a cubic between, smooth at both ends.

    Args:
        t: Tensor.
        gamma: Float > 0.
    """
    # With u = t / gamma + 1/2: -2 t^3 / gamma^3 + 3 t / (2 gamma) + 1/2 = u^2 (3 - 2 u).
    u = ops.clip(t / gamma + 0.5, 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def _barrier(total: Any, least: float = 0.01) -> Any:
    # 1 / total, and below `least` its tangent there.
    inverse = 1.0 / ops.maximum(total, least)
    return ops.where(total < least, (2.0 - total / least) / least, inverse)


def _batch_mean(values: Any) -> Any:
    # A replica may get no rows of the last batch.
    return ops.sum(values) / ops.maximum(ops.cast(ops.shape(values)[0], values.dtype), 1.0)


def _check_counts(num_experts: int, k: int) -> None:
    if num_experts < 2:
        raise ValueError(
            f"`num_experts` must be an integer >= 2 for gates that select, received {num_experts}. "
            "Use `hard_sharing` for a trunk without choice."
        )
    if k > num_experts:
        raise ValueError(
            f"`k` must be at most `num_experts`, {num_experts}, received {k}. Select fewer "
            "experts, or give more."
        )
