"""Customized gate control: shared experts, own experts and a gate for each task."""

from collections.abc import Mapping
from typing import Any

from keras_mtl.architectures import _graph
from keras_mtl.architectures._extraction import Extraction
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel


def cgc(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    num_shared_experts: int = 2,
    num_task_experts: int = 1,
    temperature: float = 1.0,
    gate_dropout: float = 0.0,
    load_balancing: float = 0.0,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds customized gate control (CGC): own and shared experts, and a gate a task.

    Each expert is a copy of the trunk. Task k reads `sum_e g_k(x)_e expert_e(x)` over its own
    experts, then the shared ones, where its gate `g_k(x) = softmax(W_k x / temperature)` reads
    what the experts read, averaged over the axes between batch and channels. Experts that run as
    one batched product, as in `mmoe`, are layers `shared_experts` and `<task>_experts`; others
    `shared_expert_0`, `<task>_expert_0` and so on. Gates are named `<task>_gate`. Parameters:
    `num_shared_experts + num_tasks * num_task_experts` times those of the trunk,
    `channels * (num_task_experts + num_shared_experts)` a gate, and those of each tower and head.

    Shared experts are shared by all tasks, own experts and gates are private; sharing ends at the
    outputs of the shared experts.

    Args:
        inputs: As in `hard_sharing`; of floats, but for masks, which gates do not read.
        trunk: As in `hard_sharing`; rebuilt for each expert, with other initial values in each. A
            list of stages is one expert; `ple` makes each stage a level.
        tasks: Dict from task name to a head or a `keras_mtl.Task`; none named "shared".
        num_shared_experts: Integer >= 1.
        num_task_experts: Integer >= 1, for each task.
        temperature: Float > 0, as in `mmoe`.
        gate_dropout: Float from 0 to 0.99, as in `mmoe`.
        load_balancing: Float >= 0, as in `mmoe`, over the experts that a gate reads.
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
    >>> model = keras_mtl.architectures.cgc(inputs, trunk, tasks, num_task_experts=3)
    >>> model.count_params() == (2 + 2 * 3) * (8 + 1) * 4 + 2 * 8 * (3 + 2) + (4 + 1) * (1 + 3)
    True

    Reference:
        H. Tang, J. Liu, M. Zhao, X. Gong 2020, Progressive layered extraction (PLE): a novel
        multi-task learning model for personalized recommendations, the section on CGC,
        https://doi.org/10.1145/3383313.3412236.
        Differs from the paper: all tasks have equally many experts of their own.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    extraction = Extraction(
        num_shared_experts,
        num_task_experts,
        temperature,
        gate_dropout,
        load_balancing,
        copy_weights,
    )
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    layers = _graph.task_layers(tasks)

    # Functional model.
    extracted = extraction([stages], _graph.trunk_inputs(inputs, stages[0], tasks), tasks)
    outputs = {
        key: _graph.task_output(key, task, layers[key], extracted[key], sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)
