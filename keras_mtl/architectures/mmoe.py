"""Multi-gate mixture of experts: shared experts, and a gate for each task."""

from collections.abc import Mapping
from typing import Any

from keras_mtl.architectures import _graph
from keras_mtl.architectures._experts import Experts, mix
from keras_mtl.architectures._gates import Gate, gate_features
from keras_mtl.core import checks
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel


def mmoe(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    num_experts: int = 4,
    temperature: float = 1.0,
    gate_dropout: float = 0.0,
    load_balancing: float = 0.0,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds a multi-gate mixture of experts (MMoE).

    Each expert is a copy of the trunk. Task k reads `sum_e g_k(x)_e expert_e(x)`, where its gate
    `g_k(x) = softmax(W_k x / temperature)` reads what the experts read, averaged over the axes
    between batch and channels; on raw images that is little, so give a stem's output as `inputs`.
    A trunk of dense layers, activations and dropout on one input `(batch, channels)` runs as one
    batched product a layer, named `experts`; of any other trunk, and where layers are frozen, come
    twice, or have constraints or activations of the user's own, the experts are `expert_0` and so
    on. Gates are named `<task>_gate`, their weights are float32. Parameters: `num_experts` times
    those of the trunk, `channels * num_experts` a gate, and those of each tower and head.

    Experts are shared by all tasks, gates are private; sharing ends at the experts' outputs.

    Args:
        inputs: As in `hard_sharing`; of floats, but for masks, which gates do not read.
        trunk: As in `hard_sharing`; rebuilt for each expert, with other initial values in each.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        num_experts: Integer >= 1.
        temperature: Float > 0. Above 1 the gates' weights are more even, below 1 more pointed.
        gate_dropout: Float from 0 to 0.99. Chance with which, in training, a gate leaves out an
            expert, though never all, and scales the weights of the others to sum to 1 (Zhao et al.
            2019, https://doi.org/10.1145/3298689.3346997, "Gating network stability").
        load_balancing: Float >= 0. Adds this times the squared coefficient of variation of the
            experts' mean weights to the loss, for each gate (Shazeer et al. 2017, equation 7,
            https://arxiv.org/abs/1701.06538); means over the batch of each replica.
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
    >>> trunk = keras.layers.Dense(4, activation="relu")
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.mmoe(inputs, trunk, tasks, num_experts=2)
    >>> model.count_params() == 2 * (8 + 1) * 4 + 2 * 8 * 2 + (4 + 1) * (1 + 3)
    True

    Reference:
        J. Ma et al. 2018, Modeling task relationships in multi-task learning with multi-gate
        mixture-of-experts, the section of that name, https://doi.org/10.1145/3219819.3220007.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    num_experts = checks.positive_integer("num_experts", num_experts)
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    layers = _graph.task_layers(tasks)
    gates = {
        key: Gate(num_experts, temperature, gate_dropout, load_balancing, name=f"{key}_gate")
        for key in tasks
    }

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
