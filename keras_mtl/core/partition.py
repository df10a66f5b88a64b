"""Which variables tasks share, and where the shared part of a functional graph ends."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import tensorflow as tf


class Partition:
    """Splits a functional model by the tasks that its nodes reach.

    A variable is *shared* if it reaches two tasks or more, *private* if it reaches one. A *cut*
    is a tensor where the shared part ends: made by a node that serves several tasks, read by a
    node (or returned as an output) that serves one. Nodes are walked, not layers: one layer may
    be called in the trunk and in a head. Cuts that no shared variable feeds are left out.
    A nested functional model is one node, but its variables have the tasks of their own branch.
    A layer may name the tensors among its inputs that reach its `add_loss` terms and not its
    outputs, by their indices, in an attribute `only_for_added_loss`: no task is reached there.

    Args:
        model: A functional model.
        outputs: Dict from task name to its output tensor or structure of output tensors.
    """

    def __init__(self, model: Any, outputs: Mapping[str, Any]) -> None:
        self.tasks = tuple(outputs)
        self._nodes = nodes_in_order(model)
        self._tensor_tasks = _reached(self._nodes, outputs)
        self._node_tasks = {id(node): self._tasks_of(node) for node in self._nodes}
        self._variable_tasks = self._tasks_of_variables()
        self.cuts = self._find_cuts(outputs)

    def _tasks_of(self, node: Any) -> frozenset[str]:
        return frozenset().union(*(self._tensor_tasks.get(id(x), ()) for x in node.outputs))

    def _tasks_of_variables(self) -> dict[int, frozenset[str]]:
        found: dict[int, frozenset[str]] = {}
        for node in self._nodes:
            _add_tasks(found, node, self._tensor_tasks)
        return found

    def tasks_of_variable(self, variable: Any) -> tuple[str, ...]:
        """Returns the tasks that a variable reaches, in order."""
        reached = self._variable_tasks.get(id(variable), frozenset())
        return tuple(task for task in self.tasks if task in reached)

    def shared(self, variables: Sequence[Any]) -> list[Any]:
        """Returns those of `variables` that two tasks or more reach."""
        return [v for v in variables if len(self.tasks_of_variable(v)) > 1]

    def shared_read_alone(self, variables: Sequence[Any]) -> list[Any]:
        """Returns the shared variables that some private node reads too (a reused layer)."""
        alone = {
            id(variable)
            for node in self._nodes
            if not self._is_shared(node)
            for variable in getattr(node.operation, "trainable_variables", ())
        }
        return [v for v in self.shared(variables) if id(v) in alone]

    def private(self, variables: Sequence[Any], task: str) -> list[Any]:
        """Returns those of `variables` that `task` alone reaches."""
        return [v for v in variables if self.tasks_of_variable(v) == (task,)]

    def shared_below_cuts(self, variables: Sequence[Any]) -> list[Any]:
        """Returns the shared variables of layers that are called once a task, below the cuts."""
        above = self._above_cuts()
        return [v for v in self.shared(variables) if id(v) not in above]

    def private_above_cuts(self, variables: Sequence[Any], task: str) -> list[Any]:
        """Returns the private variables of `task` in a branch inside a shared, nested model."""
        above = self._above_cuts()
        return [v for v in self.private(variables, task) if id(v) in above]

    def _above_cuts(self) -> set[int]:
        return {
            id(variable)
            for node in self._nodes
            if self._is_shared(node)
            for variable in getattr(node.operation, "trainable_variables", ())
        }

    def shared_nodes(self) -> list[Any]:
        """Returns the nodes that serve two tasks or more, from inputs to outputs."""
        return [node for node in self._nodes if self._is_shared(node)]

    def _is_shared(self, node: Any) -> bool:
        return len(self._node_tasks[id(node)]) > 1

    def _find_cuts(self, outputs: Mapping[str, Any]) -> list[Any]:
        read_alone = {id(x) for x in keras.tree.flatten(dict(outputs))}
        for node in self._nodes:
            if not self._is_shared(node):
                read_alone.update(id(x) for x in _passed_on(node))
        fed = self._fed_by_shared_variables()
        return [
            tensor
            for node in self._nodes
            if self._is_shared(node)
            for tensor in node.outputs
            if id(tensor) in read_alone
            and id(tensor) in fed
            and keras.backend.is_float_dtype(tensor.dtype)
        ]

    def _fed_by_shared_variables(self) -> set[int]:
        fed: set[int] = set()
        for node in self._nodes:
            own = getattr(node.operation, "trainable_variables", ())
            if own or any(id(x) in fed for x in node.input_tensors):
                fed.update(id(x) for x in node.outputs)
        return fed

    def run(
        self, tensors: dict[int, Any], operation_fn: Callable[[Any], Any], taps: "Taps"
    ) -> None:
        """Runs the graph with `taps` between its shared part and the rest.

        Args:
            tensors: Dict from the id of a symbolic tensor to its value; holds the inputs, and
                everything else afterwards.
            operation_fn: Function that prepares a node's operation for its call.
            taps: Opened between the two parts; what is private reads the taps.
        """
        for node in self._nodes:
            if self._is_shared(node):
                _run_node(node, tensors, operation_fn)
        taps.open([tensors[id(cut)] for cut in self.cuts])
        for cut, tap in zip(self.cuts, taps.taps, strict=True):
            tensors[id(cut)] = tap
        for node in self._nodes:
            if not self._is_shared(node):
                _run_node(node, tensors, operation_fn)


def _add_tasks(
    found: dict[int, frozenset[str]], node: Any, tensor_tasks: Mapping[int, frozenset[str]]
) -> None:
    """Adds to each variable of a node's operation the tasks that it reaches."""
    tasks = [tensor_tasks.get(id(x), frozenset()) for x in node.outputs]
    inner = _nested_nodes(node.operation)
    if inner is None:
        for variable in getattr(node.operation, "variables", ()):
            found[id(variable)] = found.get(id(variable), frozenset()).union(*tasks)
        return
    seeds = {id(x): own for x, own in zip(node.operation.outputs, tasks, strict=True)}
    reached = _spread(inner, seeds)
    for part in inner:
        _add_tasks(found, part, reached)


def _nested_nodes(operation: Any) -> list[Any] | None:
    """Returns the nodes of a nested functional model with several outputs, else `None`."""
    if not isinstance(operation, keras.Model) or not hasattr(operation, "_nodes_by_depth"):
        return None
    return nodes_in_order(operation) if len(operation.outputs) > 1 else None


def nodes_in_order(model: Any) -> list[Any]:
    """Returns a functional model's nodes from inputs to outputs."""
    # The nodes of one depth do not depend on one another.
    return [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
        if node.operation and not node.is_input
    ]


def _reached(nodes: Sequence[Any], outputs: Mapping[str, Any]) -> dict[int, frozenset[str]]:
    reached: dict[int, frozenset[str]] = {}
    for task, structure in outputs.items():
        for tensor in keras.tree.flatten(structure):
            reached[id(tensor)] = reached.get(id(tensor), frozenset()) | {task}
    return _spread(nodes, reached)


def _spread(nodes: Sequence[Any], reached: dict[int, frozenset[str]]) -> dict[int, frozenset[str]]:
    """Returns which tasks each tensor reaches, from those that the outputs are for."""
    for node in reversed(nodes):
        tasks = frozenset().union(*(reached.get(id(x), ()) for x in node.outputs))
        for tensor in _passed_on(node):
            reached[id(tensor)] = reached.get(id(tensor), frozenset()) | tasks
    return reached


def _passed_on(node: Any) -> list[Any]:
    """Returns the tensors that the outputs of a node depend on."""
    aside = getattr(node.operation, "only_for_added_loss", ())
    return [tensor for index, tensor in enumerate(node.input_tensors) if index not in aside]


def _run_node(node: Any, tensors: dict[int, Any], operation_fn: Callable[[Any], Any]) -> None:
    args, kwargs = node.arguments.fill_in(tensors)
    outputs = operation_fn(node.operation)(*args, **kwargs)
    for symbolic, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
        tensors[id(symbolic)] = value


class Taps:
    """Copies of the cut tensors, and a tape over what is computed from them.

    Nested cuts are counted once: the private part of the graph reads the copies, the shared part
    the originals. While a `Taps` is open in a thread (replicas are threads), the model run in
    that thread uses it.
    """

    _open = threading.local()

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.cuts: list[Any] = []
        self.taps: list[Any] = []
        self.tape = tf.GradientTape(persistent=True)
        self._stack = ExitStack()

    def __enter__(self) -> "Taps":
        type(self)._open.current = self
        return self

    def __exit__(self, *_: object) -> None:
        type(self)._open.current = None
        self._stack.close()

    @classmethod
    def current(cls) -> "Taps | None":
        """Returns the taps that are open in this thread, if any."""
        return getattr(cls._open, "current", None)

    def open(self, cuts: Sequence[Any]) -> None:
        """Copies the cut tensors, and records what follows."""
        self.cuts = list(cuts)
        self.taps = [_copy(cut) for cut in cuts]
        self._stack.enter_context(self.tape)
        self.tape.watch(self.taps)


def _copy(tensor: Any) -> Any:
    copy = tf.identity(tensor)
    # Not `_keras_logits`: a loss would read these past the copy, and its gradient be lost.
    if hasattr(tensor, "_keras_mask"):
        copy._keras_mask = tensor._keras_mask
    return copy
