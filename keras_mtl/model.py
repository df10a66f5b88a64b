"""`MultiTaskModel`: a functional Keras model with several named tasks."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import keras

from keras_mtl import balancing, weighting
from keras_mtl.core import checks, compilation, masks, update
from keras_mtl.core.feed import Feed
from keras_mtl.core.fitted_model import FittedModel
from keras_mtl.core.logbook import LogBook
from keras_mtl.core.partition import Partition, Taps
from keras_mtl.core.rebuild import rebuild
from keras_mtl.core.state import TrainingState
from keras_mtl.core.step import Step
from keras_mtl.hypergradients import hypergradient_for
from keras_mtl.task import Task


@keras.saving.register_keras_serializable(package="keras_mtl")
class MultiTaskModel(FittedModel):
    """A functional model that trains several named tasks.

    It is made as `keras.Model(inputs, outputs)` is, with `outputs` a dict by task, and used as
    that is: `compile`, `fit`, callbacks, `tf.distribute`, mixed precision, `.keras` files.

    Args:
        inputs: Keras inputs: a tensor, a list or a dict.
        outputs: Dict from task name to its output: a tensor, or a flat dict of tensors.
        name: Optional string. Name of the model.
        tasks: Optional dict from task name to `Task`, for those where there is more to say than
            the outputs do: a head, tower or features are for builders.

    Raises:
        TypeError: If `outputs` is not a dict, or a task is no `Task`.
        ValueError: If a task has no output, an impossible name or layers of its own.

    Example:

    >>> inputs = keras.Input((4,))
    >>> outputs = {"age": keras.layers.Dense(1)(inputs), "sex": keras.layers.Dense(1)(inputs)}
    >>> model = keras_mtl.MultiTaskModel(inputs, outputs)
    >>> model.compile("sgd", loss="mse", loss_weights={"age": 0.5})
    >>> dict(model.loss_weights)
    {"age": 0.5, "sex": 1.0}
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        tasks: Mapping[str, Task] | None = None,
        **kwargs: Any,
    ) -> None:
        checks.outputs_by_task(outputs)
        given = {} if tasks is None else tasks
        checks.task_keys("tasks", given, list(outputs), partial=True)
        order = given if len(given) == len(outputs) else outputs
        specs = {task: Task.of(given.get(task, Task())) for task in order}
        compilation.check_no_layers(specs, outputs)
        checks.named("where", {task: spec.where for task, spec in specs.items()}, specs)
        super().__init__(inputs, {task: outputs[task] for task in specs}, name=name, **kwargs)
        input_names = [tensor.name for tensor in self.inputs]
        named = {task: spec.mask for task, spec in specs.items()}
        checks.named("mask", named, input_names)
        masks.check_fit(named, outputs, self.inputs)
        # Kept, not made when saving: Keras takes objects with one `id` for one object.
        self._tasks = MappingProxyType(
            {task: spec.without_layers(mask=spec.mask) for task, spec in specs.items()}
        )
        self._evaluating = False

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name, in order."""
        return self._tasks

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = "auto",
        loss_weights: Mapping[str, float] | None = None,
        metrics: Any = "auto",
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        *,
        loss_weighting: Any = "fixed",
        gradient_balancing: Any = None,
        on_nonfinite: str | None = None,
        baselines: Mapping[str, float] | None = None,
    ) -> None:
        """Configures the model for training; arguments in Keras' order, methods by keyword.

        Args:
            optimizer: As in Keras.
            loss: `"auto"` takes each task's loss from its `Task` or head. A dict replaces task by
                task; `None` for a task is an output without loss or label. One loss serves all.
            loss_weights: Dict from task to a constant >= 0; others keep `Task(loss_weight=)`.
                `load_weights` afterwards restores those of the file, and which tasks were stopped,
                as resuming needs; `compile` again starts with new ones.
            metrics: As `loss`, with a metric or a list of metrics a task. Where columns of a label
                miss one by one, those of Keras count the others, but for metrics that rank or
                compare the columns of a row: these leave it out, and `compile` warns.
            weighted_metrics: As `metrics`; sample and class weights reach these.
            run_eagerly: As in Keras.
            steps_per_execution: As in Keras; 1 where there are several replicas.
            jit_compile: As in Keras.
            auto_scale_loss: As in Keras.
            loss_weighting: Name or object that chooses task weights from losses:
                `keras_mtl.weighting.names()`.
            gradient_balancing: Name or object that combines task gradients, or `None`:
                `keras_mtl.balancing.names()`.
            on_nonfinite: What to do where a loss or gradient is NaN or infinite: `"raise"` stops
                with the task's name and applies no update, `"skip"` drops the update and counts
                it in the logs, `None` does as plain Keras.
            baselines: Dict from a metric's log name to its single-task value. Logs the mean
                relative gain over them in percent, positive where better: `delta_m` over the
                metrics given, `delta_p` over tasks, of each the mean over its metrics first.

        Raises:
            ValueError: If an argument names an unknown task or method, or cannot be had.
            TypeError: If an argument has the wrong type, such as a list instead of a dict.
        """
        update.check_overrides(self)
        plans = compilation.resolve_plans(loss, self.tasks, self.output)
        constants = compilation.resolve_constants(loss_weights, plans, self.tasks)
        update.check_policy(on_nonfinite)
        with self.distribute_strategy.scope():  # in which an optimizer given by name is made
            optimizer = keras.optimizers.get(optimizer)
        arguments = {
            "optimizer": optimizer,
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
            "loss_weighting": weighting.get(loss_weighting),
            "gradient_balancing": balancing.get(gradient_balancing),
            "on_nonfinite": on_nonfinite,
            "baselines": baselines,
        }
        update.check_optimizer(arguments["optimizer"], self.distribute_strategy)
        update.check_steps_per_execution(steps_per_execution, self.distribute_strategy)
        with self.distribute_strategy.scope():
            logbook = self._logbook(plans, metrics, weighted_metrics, on_nonfinite, baselines)
            state = self._new_state(plans, constants, arguments)
            update.check_knows(optimizer, state.loss_weighting)
            super().compile(
                optimizer=arguments["optimizer"],
                run_eagerly=run_eagerly,
                steps_per_execution=steps_per_execution,
                jit_compile=jit_compile,
                auto_scale_loss=auto_scale_loss,
            )
            # Not tracked as a layer: `model.weights` stay those of the plain Keras model.
            object.__setattr__(self, "_training_state", state)
            # Nor tracked as a metric: Keras lists it already as the compiled metrics.
            object.__setattr__(self, "_compile_metrics", logbook)
            self._compile_arguments = MappingProxyType(arguments)
            self._ready_step(plans, state, logbook, on_nonfinite)

    def _logbook(
        self,
        plans: Mapping[str, Any],
        metrics: Any,
        weighted_metrics: Any,
        on_nonfinite: str | None,
        baselines: Mapping[str, float] | None,
    ) -> LogBook:
        resolved = compilation.resolve_metrics(
            metrics,
            weighted_metrics,
            plans,
            self.tasks,
            self.output,
            model=self,
        )
        return LogBook(list(plans), resolved, skips=on_nonfinite == "skip", baselines=baselines)

    def _new_state(
        self, plans: Mapping[str, Any], constants: Sequence[float], arguments: dict[str, Any]
    ) -> TrainingState:
        roles = compilation.roles_of(plans, self.tasks)
        for name in ("loss_weighting", "gradient_balancing"):
            if arguments[name] is not None:
                arguments[name] = arguments[name].owned_by(self, roles)
        methods = (arguments["loss_weighting"], arguments["gradient_balancing"])
        return TrainingState(constants, *methods, self._list_seed_generators)

    def _ready_step(
        self, plans: Mapping[str, Any], state: TrainingState, logbook: LogBook, policy: str | None
    ) -> None:
        outputs = {task: self.output[task] for task in plans}
        partition = Partition(self, outputs)
        update.warn_if_nothing_shared(state.gradient_balancing, partition, self.trainable_variables)
        update.warn_of_undone_weights(state.loss_weighting, state.gradient_balancing)
        if state.gradient_balancing is not None:
            shared = partition.shared(self.trainable_variables)
            sizes = [math.prod(variable.shape) for variable in shared]
            state.gradient_balancing.build_for_parts(sizes)
        self._step = Step(self, plans, state, logbook, partition, policy)
        self._step.before_step = hypergradient_for(self._step)
        self._feed = Feed(plans, self.output, self.inputs)
        self._plans = MappingProxyType(plans)
        if self.optimizer is None:
            return
        own = state.loss_weighting.trainable_variables
        update.keep_from_clipping(self.optimizer, len(own))
        # Before a checkpoint is restored: Keras skips the state of an optimizer without variables.
        if not self.optimizer.built:
            update.keep_from_weight_decay(self.optimizer, own)
            self.optimizer.build(self._step.variables)

    def _list_seed_generators(self) -> list[Any]:
        methods = (self._training_state.loss_weighting, self._training_state.gradient_balancing)
        layers = list(self._flatten_layers(include_self=False))
        for method in methods:
            layers += [] if method is None else method._flatten_layers()
        return [generator for layer in layers for generator in layer._seed_generators]

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`, serialised."""
        if not self.compiled:
            return {}
        arguments = keras.saving.serialize_keras_object(dict(self._compile_arguments))
        return {**arguments, "tasks": self._serialized_tasks()}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with what `get_compile_config` returned."""
        config = dict(config)
        tasks = config.pop("tasks")
        # `keras.models.clone_model` makes a model without them, then compiles it with this.
        self._tasks = MappingProxyType(_deserialized_tasks(tasks))
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": self._serialized_tasks()}

    def _serialized_tasks(self) -> list[list[Any]]:
        """Returns pairs, because the order of a dict's keys is not kept everywhere."""
        return [
            [task, keras.saving.serialize_keras_object(spec)] for task, spec in self.tasks.items()
        ]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Makes a model from what `get_config` returned, with fresh weights."""
        if "tasks" not in config:
            # A subclass with a constructor and a config of its own, as of `keras.Model`.
            return super().from_config(config, custom_objects)
        tasks = _deserialized_tasks(config["tasks"])
        return super().from_config({**config, "tasks": tasks}, custom_objects)

    def clone(self) -> Self:
        """Returns an uncompiled model with the same graph and tasks, and fresh weights.

        What layers have adapted to is kept, and so are functions and classes of the user's.
        `keras.models.clone_model` keeps the tasks of compiled models only, and makes no model of
        a subclass with a constructor of its own.
        """
        return rebuild(self)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # A functional model is built, and `compile` builds the rest: stock Keras draws a batch
        # here, which loses those of generators and crashes under several workers.
        del iterator, data_batch

    def _run_through_graph(
        self, inputs: Any, operation_fn: Any = lambda operation: operation, call_fn: Any = None
    ) -> Any:
        taps = Taps.current()
        if taps is None or call_fn is not None:
            return super()._run_through_graph(inputs, operation_fn, call_fn)
        flat = keras.tree.flatten(inputs)
        tensors = {id(x): value for x, value in zip(self.inputs, flat, strict=True)}
        taps.partition.run(tensors, operation_fn, taps)
        return keras.tree.map_structure(lambda x: tensors[id(x)], self.output)


def _deserialized_tasks(pairs: Sequence[Any]) -> dict[str, Task]:
    return {task: keras.saving.deserialize_keras_object(spec) for task, spec in pairs}
