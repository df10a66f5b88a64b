"""Resolves the arguments of `compile` task by task, before anything is changed."""

import inspect
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras

from keras_mtl.core import checks, gains, metric_inputs, negative, task_metrics
from keras_mtl.core.losses import TaskLoss
from keras_mtl.core.losses import resolve as resolve_loss
from keras_mtl.core.plan import TaskPlan
from keras_mtl.core.roles import TaskRole
from keras_mtl.core.task_metrics import TaskMetric

# Read labels that are -1 or 1.
_HINGES = (keras.losses.hinge, keras.losses.squared_hinge)


def head_of(outputs: Any) -> Any:
    """Returns the head layer that made a task's outputs, or `None`."""
    operation = _made_by(outputs)
    return operation if hasattr(operation, "default_loss") else None


def _made_by(outputs: Any) -> Any:
    return keras.tree.flatten(outputs)[0]._keras_history.operation


def check_no_layers(tasks: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Refuses tasks with layers of which a model of given outputs would make nothing."""
    for name, task in tasks.items():
        given = {"head": task.head, "tower": task.tower, "features": task.features}
        idle = [key for key, part in given.items() if part is not None]
        if idle == ["head"] and _made_by(outputs[name]) is task.head:
            continue
        if idle:
            raise ValueError(
                f"`tasks['{name}']` must have no {' and no '.join(idle)}: the model's outputs are "
                "there, and only builders make layers of tasks. Call the head on the features, "
                f"`outputs={{'{name}': head(features)}}`, or use a builder of "
                "`keras_mtl.architectures`."
            )


def resolve_plans(
    loss: Any, tasks: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dict[str, TaskPlan]:
    """Returns a plan for every task that has a loss, in order.

    Args:
        loss: As in `compile`: `"auto"`, a dict by task, or one loss for all tasks.
        tasks: Dict from task name to `Task`.
        outputs: Dict from task name to its symbolic output or structure of outputs.
    """
    given = _by_task("loss", loss, list(tasks))
    plans = {}
    for name, task in tasks.items():
        head = head_of(outputs[name])
        found = given[name] if name in given else _default_loss(name, task, head)
        if found is not None:
            plan = plans[name] = _plan(name, task, head, found)
            builtin = [plan.loss.loss.name] if plan.loss.is_builtin else []
            _check_several("loss", name, outputs[name], builtin)
    if not plans:
        raise ValueError(f"`loss` must give one of the tasks {list(tasks)} a loss, received None.")
    for plan in plans.values():
        if plan.where is not None:
            _check_where(plan, plans)
    return plans


def _check_where(plan: TaskPlan, plans: Mapping[str, TaskPlan]) -> None:
    if plan.where not in plans:
        raise ValueError(
            f"`where='{plan.where}'` of task '{plan.name}' must name a task with a loss. "
            f"Expected one of {list(plans)}." + checks.suggestion(plan.where, plans)
        )
    parts = plans[plan.where].loss.declares.parts
    if parts:
        raise ValueError(
            f"`where='{plan.where}'` of task '{plan.name}' must name a task of which a label is "
            f"one number or several, received one whose labels have the parts {list(parts)}. Give "
            f"NaN, or the head's `ignore_class`, to rows that '{plan.name}' is not to learn from."
        )


def _by_task(argument: str, value: Any, tasks: list[str]) -> dict[str, Any]:
    """Returns what a dict, `"auto"` or one value for all gives each task."""
    if isinstance(value, str) and value == "auto":
        return {}
    if isinstance(value, list | tuple):
        each = value if len(value) == len(tasks) else [value] * len(tasks)
        pairs = ", ".join(f"'{task}': {item!r}" for task, item in zip(tasks, each, strict=True))
        raise TypeError(
            f"`{argument}` must be a dict keyed by task, received {checks.describe(value)}: a list "
            f"has no task names. Write `{argument}={{{pairs}}}`."
        )
    if isinstance(value, Mapping) and not _is_config(value):
        checks.task_keys(argument, value, tasks, partial=True)
        return dict(value)
    return dict.fromkeys(tasks, value)


def _is_config(value: Mapping[str, Any]) -> bool:
    return {"class_name", "config"} <= set(value)


def _default_loss(name: str, task: Any, head: Any) -> Any:
    if task.loss is not None:
        return task.loss
    if head is None:
        raise ValueError(
            f"`loss` has no entry for task '{name}', which has no head to take it from. Add "
            f"'{name}' to `loss`, with None for an output without loss and label."
        )
    return head.default_loss()


def _check_several(argument: str, task: str, outputs: Any, builtin: list[str]) -> None:
    """Refuses losses and metrics of Keras, which read one output, for a task with several."""
    if builtin and isinstance(outputs, Mapping):
        kind = "Loss" if argument == "loss" else "Metric"
        raise ValueError(
            f"`{argument}` of task '{task}' must read a dict of its outputs {list(outputs)}, "
            f"received {builtin} of Keras, which read one tensor. Leave '{task}' out to take its "
            f"head's, or give a `keras.{kind}` of your own."
        )


def _plan(name: str, task: Any, head: Any, identifier: Any) -> TaskPlan:
    loss = TaskLoss(name, resolve_loss(name, identifier))
    marker = _marker(name, loss, head)
    if marker == -1 and loss.function in _HINGES:
        raise ValueError(
            f"`ignore_class` of task '{name}' must not be -1 with the loss '{loss.loss.name}', "
            "which reads -1 as no: these labels would count as missing. Give the head "
            "`ignore_class=None`, or where labels are missing another integer, such as -2."
        )
    return TaskPlan(name, loss, marker, task.where, task.mask)


def _marker(name: str, loss: TaskLoss, head: Any) -> int | None:
    """Returns the class label that means "no label": the loss's, where it has one."""
    of_loss, of_head = loss.ignore_class, getattr(head, "ignore_class", None)
    if of_loss is None:
        return of_head
    if of_head not in (of_loss, _default_marker(head)):
        raise ValueError(
            f"`ignore_class` of task '{name}' must be one value, received {of_head} from the head "
            f"and {of_loss} from the loss. Give the head `ignore_class={of_loss}`, or leave it out "
            "of the loss."
        )
    return of_loss


def _default_marker(head: Any) -> int | None:
    """Returns the `ignore_class` of a head that was given none."""
    for kind in type(head).__mro__:
        parameters = inspect.signature(kind.__init__).parameters
        if "ignore_class" in parameters:
            return parameters["ignore_class"].default
    return None


def resolve_metrics(
    metrics: Any,
    weighted_metrics: Any,
    plans: Mapping[str, TaskPlan],
    tasks: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    model: Any,
) -> dict[str, list[TaskMetric]]:
    """Returns the metrics of every task with a loss, checked for colliding log names."""
    defaults = {name: _default_metrics(tasks[name], head_of(outputs[name])) for name in plans}
    plain = {**defaults, **_by_task("metrics", metrics, list(tasks))}
    weighted = {} if weighted_metrics is None else weighted_metrics
    weighted = _by_task("weighted_metrics", weighted, list(tasks))
    _check_shared_objects([plain, weighted])
    found = {}
    for name in plans:
        own = task_metrics.resolve(name, plain[name])
        with_weights = task_metrics.resolve(name, weighted.get(name))
        builtin = [x.name for x in (*own, *with_weights) if task_metrics.is_builtin(x)]
        _check_several("metrics", name, outputs[name], builtin)
        _warn_of_whole_rows(plans[name], [*own, *with_weights], outputs[name])
        found[name] = [
            TaskMetric(
                f"{name}_{metric.name}",
                task_metrics.owned_by(model, metric),
                task=name,
                weighted=is_weighted,
                jit_compile=lambda: model.jit_compile,
            )
            for group, is_weighted in ((own, False), (with_weights, True))
            for metric in group
        ]
    _check_log_names(found)
    return found


def _default_metrics(task: Any, head: Any) -> Any:
    if task.metrics is not None:
        return task.metrics
    return None if head is None else head.default_metrics()


def _warn_of_whole_rows(plan: TaskPlan, metrics: list[Any], outputs: Any) -> None:
    """Warns of metrics that leave out rows of which the loss leaves out single columns."""
    if not plan.loss.elementwise or isinstance(outputs, Mapping) or outputs.shape[-1] == 1:
        return
    whole = [metric.name for metric in metrics if metric_inputs.reads_whole_rows(metric)]
    if whole:
        warnings.warn(
            f"`metrics` of task '{plan.name}' holds {whole}, which read whole rows: they leave out "
            "each row of which a column has no label, and the loss leaves out that column alone. "
            "Where columns miss one by one, take a metric with a threshold, such as "
            '`keras.metrics.F1Score("macro", threshold=0.5)`, or of single columns.',
            stacklevel=5,
        )


def _check_shared_objects(groups: list[dict[str, Any]]) -> None:
    owners: dict[int, str] = {}
    for group in groups:
        for task, value in group.items():
            for metric in value if isinstance(value, list | tuple) else [value]:
                if not isinstance(metric, keras.metrics.Metric):
                    continue
                if owners.setdefault(id(metric), task) != task:
                    raise ValueError(
                        f"`metrics` gives one object, '{metric.name}', to the tasks "
                        f"'{owners[id(metric)]}' and '{task}', whose values would mix. "
                        "Make one a task."
                    )


def _check_log_names(metrics: Mapping[str, list[TaskMetric]]) -> None:
    names = ["loss", "skipped_updates", gains.DELTA_M, gains.DELTA_P]
    for task, entries in metrics.items():
        names += [f"{task}_loss", f"{task}_weight", *(entry.name for entry in entries)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"Log names must differ, but these occur twice: {twice}. Logs are named "
            "<task>_loss, <task>_weight and <task>_<metric>: rename a task or a metric."
        )


def resolve_constants(
    loss_weights: Any, plans: Mapping[str, TaskPlan], tasks: Mapping[str, Any]
) -> list[float]:
    """Returns the user's constant of every task with a loss."""
    given = {} if loss_weights is None else loss_weights
    if isinstance(given, Mapping):
        others = [task for task in tasks if task not in plans]
        checks.task_keys("loss_weights", given, list(plans), partial=True, without_loss=others)
    given = _by_task("loss_weights", given, list(plans))
    return [
        checks.loss_weight(f"loss_weights['{name}']", given.get(name, tasks[name].loss_weight))
        for name in plans
    ]


def roles_of(plans: Mapping[str, TaskPlan], tasks: Mapping[str, Any]) -> list[TaskRole]:
    """Returns what methods may know of each task with a loss."""
    return [
        TaskRole(
            name, tasks[name].auxiliary, plan.loss.likelihood, negative.is_nonnegative(plan.loss)
        )
        for name, plan in plans.items()
    ]
