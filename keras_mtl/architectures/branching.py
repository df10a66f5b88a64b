"""Branching: a trunk whose first stages all tasks share, and later ones fewer and fewer."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import Column, stages_of
from keras_mtl.core import checks
from keras_mtl.model import MultiTaskModel

Groups = Sequence[Sequence[Sequence[str]]]


def branching(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    groups: Groups | None = None,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds a tree: groups of tasks share a stage, and part from one another later.

    For each stage, `groups` says which tasks share it. A group reads what the group that it is
    part of made in the stage before. A task that is left out of a stage leaves the trunk there:
    its tower and head read the last stage that it was in, and it does not come back.

    A stage of one group is the trunk's own object, weights included. A stage of several groups is
    rebuilt for each, with other initial values in each, and named `<task>_<stage>` after the
    group's first task. Parameters: each stage's times its number of groups, and those of each
    tower and head.

    What a group of several tasks runs is shared by them; sharing ends where a task leaves its group
    or the trunk.

    Args:
        inputs: As in `hard_sharing`.
        trunk: List of stages, layers or models, or a function of no arguments that returns one. A
            stage may return a dict of which the tasks that leave there choose.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        groups: List with one entry a stage: a list of groups, each a list of task names. The first
            has every task once; each group is part of one of the stage before. By default all
            tasks share every stage but the last, and have the last for themselves.
        copy_weights: Boolean. Whether stages that are rebuilt start from the trunk's weights.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or `groups` is something else.
        ValueError: If `trunk` is a single layer, `groups` are no partitions of the tasks that
            refine one another, one a stage, a stage cannot be rebuilt, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="words")
    >>> trunk = [keras.layers.Dense(6, name="low"), keras.layers.Dense(4, name="high")]
    >>> head = keras_mtl.heads.Classification(3)
    >>> model = keras_mtl.architectures.branching(
    ...     inputs,
    ...     trunk,
    ...     {"pos": head, "chunk": head, "ccg": head},
    ...     groups=[[["pos", "chunk", "ccg"]], [["chunk"], ["ccg"]]],  # "pos" leaves after "low"
    ... )
    >>> model.count_params() == (8 + 1) * 6 + 2 * (6 + 1) * 4 + (6 + 1) * 3 + 2 * (4 + 1) * 3
    True

    Reference:
        Søgaard, Goldberg 2016, Deep multi-task learning with low level tasks supervised at lower
        layers, https://doi.org/10.18653/v1/P16-2038; Misra et al. 2016, Cross-stitch networks for
        multi-task learning, section 3.1, https://arxiv.org/abs/1604.03539. Differs from the papers:
        a stage is any layer, tasks leave and groups part at any of them, in one model.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    stages = stages_of(trunk, "branching")
    tree = _default_groups(tasks, len(stages)) if groups is None else groups
    _check_groups(tree, list(tasks), stages)
    sources = _graph.model_inputs(inputs)
    layers = _graph.task_layers(tasks)

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    features = dict.fromkeys(tasks, read)
    for stage, partition in zip(stages, tree, strict=True):
        features |= _stage_features(stage, partition, features, copy_weights)
    outputs = {
        key: _graph.task_output(key, task, layers[key], features[key], sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


def _default_groups(tasks: Mapping[str, Any], num_stages: int) -> list[list[list[str]]]:
    return [[list(tasks)]] * (num_stages - 1) + [[[task] for task in tasks]]


def _stage_features(
    stage: keras.layers.Layer,
    partition: Sequence[Sequence[str]],
    features: Mapping[str, Any],
    copy_weights: bool,
) -> dict[str, Any]:
    """Returns what a stage makes for each task that is in one of its groups."""
    if len(partition) == 1:
        (group,) = partition
        return dict.fromkeys(group, _graph.apply_stages([stage], features[group[0]]))
    found: dict[str, Any] = {}
    for index, group in enumerate(partition):
        column = Column([stage], f"{group[0]}_{stage.name}", index, copy_weights=copy_weights)
        found |= dict.fromkeys(group, column(features[group[0]]))
    return found


def _check_groups(groups: Any, tasks: Sequence[str], stages: Sequence[Any]) -> None:
    if not _is_list_of(_is_list_of_groups, groups):
        example = _default_groups(dict.fromkeys(tasks), 2)
        raise TypeError(
            "`groups` must be a list with an entry a stage, each a list of groups, each a list of "
            f"task names, none empty, such as {example}. Received {checks.describe(groups)}."
        )
    if len(groups) != len(stages):
        raise ValueError(
            f"`groups` must have one entry a stage. Expected {len(stages)}, for the stages "
            f"{[stage.name for stage in stages]}, received {len(groups)}. A task leaves the trunk "
            "by being left out of the entries of later stages."
        )
    before = [list(tasks)]
    for stage, partition in zip(stages, groups, strict=True):
        _check_names(stage.name, partition, tasks)
        _check_refines(stage.name, partition, before)
        before = partition
    missing = [task for task in tasks if not any(task in group for group in groups[0])]
    if missing:
        raise ValueError(
            f"`groups` of the first stage, '{stages[0].name}', must have every task. Missing: "
            f"{missing}. A task can leave the trunk after its first stage, not before."
        )


def _check_names(stage: str, partition: Sequence[Sequence[str]], tasks: Sequence[str]) -> None:
    seen: set[str] = set()
    for task in (task for group in partition for task in group):
        if task not in tasks:
            raise ValueError(
                f"`groups` of stage '{stage}' have the unknown task '{task}'."
                f"{checks.suggestion(task, tasks)} Tasks: {list(tasks)}."
            )
        if task in seen:
            raise ValueError(
                f"`groups` of stage '{stage}' have task '{task}' twice. Expected each task in at "
                f"most one group, received {partition}."
            )
        seen.add(task)


def _check_refines(
    stage: str, partition: Sequence[Sequence[str]], before: Sequence[Sequence[str]]
) -> None:
    for group in partition:
        if not any(set(group) <= set(larger) for larger in before):
            raise ValueError(
                f"`groups` of stage '{stage}' have the group {list(group)}, which is no part of a "
                f"group of the stage before. Expected parts of {before}: tasks that have parted, "
                "or left the trunk, do not meet again."
            )


def _is_list_of(accepts: Any, value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(accepts, value))


def _is_list_of_groups(value: Any) -> bool:
    return _is_list_of(lambda group: _is_list_of(lambda name: isinstance(name, str), group), value)
