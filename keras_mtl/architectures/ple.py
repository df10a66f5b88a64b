"""Progressive layered extraction: levels of shared and own experts, a gate for each."""

from collections.abc import Mapping
from typing import Any

from keras_mtl.architectures import _graph
from keras_mtl.architectures._extraction import Extraction
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel


def ple(
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
    """Builds progressive layered extraction (PLE): own and shared experts in levels.

    Each stage of the trunk is one level, whose experts are copies of it. In level j task k reads
    `x_k^j = sum_e g_k^j(x_k^(j-1))_e expert_e`, over its own experts, which read `x_k^(j-1)`, then
    the shared ones, which read `x_s^(j-1)`. The shared gate makes `x_s^j` from the experts of all
    tasks, in their order, then the shared ones; the last level has none. In the first level all
    read the inputs. Gates are `softmax(W x / temperature)` of what is given, averaged over the axes
    between batch and channels. A single layer or a list of one is one level, and the model `cgc`;
    for experts of several layers give stages that are models.

    Of several levels the layers of level 0 are named `level_0_shared_experts`,
    `level_0_<task>_experts`, `level_0_shared_gate`, `level_0_<task>_gate`, and so on; experts that
    do not run as one batched product, as in `mmoe`, `level_0_shared_expert_0` and so on. Of one
    level they are named as in `cgc`. Parameters: in each level
    `num_shared_experts + num_tasks * num_task_experts` times those of its stage,
    `channels * (num_task_experts + num_shared_experts)` a task's gate and, but in the last,
    `channels * (num_tasks * num_task_experts + num_shared_experts)` the shared gate, with the
    channels that the level reads; and those of each tower and head.

    In the last level own experts and gates are private. Below, all experts and shared gates are
    shared, for own experts reach the other tasks through the shared gate; tasks' gates are shared
    but in the last two levels. Sharing ends at the outputs of the shared experts of the last
    level and of all experts of the level before.

    Args:
        inputs: As in `hard_sharing`; of floats, but for masks, which gates do not read.
        trunk: As in `hard_sharing`; each stage rebuilt for each expert of its level, with other
            initial values in each.
        tasks: Dict from task name to a head or a `keras_mtl.Task`; none named "shared".
        num_shared_experts: Integer >= 1, in each level.
        num_task_experts: Integer >= 1, for each task in each level.
        temperature: Float > 0, as in `mmoe`.
        gate_dropout: Float from 0 to 0.99, as in `mmoe`.
        load_balancing: Float >= 0, as in `mmoe`, for each gate of each level.
        copy_weights: Boolean. Whether every expert starts from the weights of its stage.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or an option is something else.
        ValueError: If an option is out of range, the inputs or features hold no floats, a
            stage cannot be rebuilt, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3)]
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.ple(inputs, trunk, tasks, num_task_experts=3)
    >>> experts = (2 + 2 * 3) * ((8 + 1) * 4 + (4 + 1) * 3)
    >>> gates = 2 * 8 * (3 + 2) + 8 * (2 * 3 + 2) + 2 * 4 * (3 + 2)
    >>> model.count_params() == experts + gates + (3 + 1) * (1 + 3)
    True

    Reference:
        H. Tang, J. Liu, M. Zhao, X. Gong 2020, Progressive layered extraction (PLE): a novel
        multi-task learning model for personalized recommendations, the section on PLE,
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
    levels = [[stage] for stage in stages]
    extracted = extraction(levels, _graph.trunk_inputs(inputs, stages[0], tasks), tasks)
    outputs = {
        key: _graph.task_output(key, task, layers[key], extracted[key], sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)
