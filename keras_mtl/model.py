"""`MultiTaskModel`: a functional Keras model with several named tasks."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import keras
import numpy as np

from keras_mtl import balancing, weighting
from keras_mtl.core import checks, compilation, nonfinite, serving, update
from keras_mtl.core.epoch_start import EpochStart, savers_last
from keras_mtl.core.feed import Feed, translated
from keras_mtl.core.kept import DETACHED, HEADS
from keras_mtl.core.logbook import LogBook
from keras_mtl.core.partition import Partition, Taps
from keras_mtl.core.state import TaskValues, TrainingState
from keras_mtl.core.step import Step
from keras_mtl.hypergradients import hypergradient_for
from keras_mtl.task import Task


@keras.saving.register_keras_serializable(package="keras_mtl")
class MultiTaskModel(keras.Model):
    """A functional model that trains several named tasks.

    It is made as `keras.Model(inputs, outputs)` is, with `outputs` a dict by task, and used as
    that is: `compile`, `fit`, callbacks, `tf.distribute`, mixed precision, `.keras` files.

    Args:
        inputs: Keras inputs: a tensor, a list or a dict.
        outputs: Dict from task name to its output: a tensor, or a flat dict of tensors.
        name: Optional string. Name of the model.
        tasks: Optional dict from task name to `Task`, for those where there is more to say.

    Raises:
        TypeError: If `outputs` is not a dict, or a task is no `Task`.
        ValueError: If a task has no output or an impossible name.

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
        checks.named("where", {task: spec.where for task, spec in specs.items()}, specs)
        super().__init__(inputs, {task: outputs[task] for task in specs}, name=name, **kwargs)
        input_names = [tensor.name for tensor in self.inputs]
        checks.named("mask", {task: spec.mask for task, spec in specs.items()}, input_names)
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
            metrics: As `loss`, with a metric or a list of metrics a task.
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
        arguments = {
            "optimizer": keras.optimizers.get(optimizer),
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
        self._step = Step(self, plans, state, logbook, partition, policy)
        self._step.before_step = hypergradient_for(self._step)
        self._feed = Feed(plans, self.output)
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
        layers = [*self._flatten_layers(include_self=False), *methods]
        return [g for layer in layers if layer is not None for g in layer._seed_generators]

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
        tasks = _deserialized_tasks(config["tasks"])
        return super().from_config({**config, "tasks": tasks}, custom_objects)

    def clone(self) -> Self:
        """Returns an uncompiled model with the same graph and tasks, and fresh weights.

        `keras.models.clone_model` keeps the tasks of compiled models only.
        """
        return type(self).from_config(self.get_config())

    def task_model(self, task: str) -> keras.Model:
        """Returns the single-task functional model of `task`, which shares this one's weights."""
        checks.task_keys("task", {task: None}, list(self.tasks), partial=True)
        return keras.Model(self.input, self.output[task], name=f"{self.name}_{task}")

    def export(
        self,
        filepath: str,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        *,
        tasks: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Exports for serving: the main tasks together, and one endpoint a task.

        The SavedModel has the signatures `serving_default` and `serve_<task>`, whose inputs bear
        the model's input names; plain TensorFlow loads it. A head with several outputs is served
        flat as `<task>_<output>`.

        Args:
            filepath: String. Where to write.
            format: As in Keras; formats other than the default hold one signature.
            verbose: As in Keras.
            tasks: Optional list of task names; by default those that are not auxiliary.
            kwargs: Further arguments of Keras' export of that format.

        Raises:
            ValueError: If a task is unknown, or all tasks are auxiliary and none is named.
        """
        if isinstance(tasks, str):
            raise TypeError(
                f"`tasks` must be a list of task names, received {checks.describe(tasks)}. Write "
                f"`tasks=['{tasks}']`."
            )
        main = [task for task, spec in self.tasks.items() if not spec.auxiliary]
        chosen = main if tasks is None else list(tasks)
        checks.task_keys("tasks", dict.fromkeys(chosen), list(self.tasks), partial=True)
        if not chosen:
            raise ValueError(
                "`tasks` must name a task to export: all of "
                f"{list(self.tasks)} are auxiliary. Write `tasks=[...]`."
            )
        if format == "tf_saved_model":
            serving.export(
                str(filepath), self, chosen, verbose=verbose is None or verbose, **kwargs
            )
            return
        part = keras.Model(self.input, {task: self.output[task] for task in chosen})
        part.export(filepath, format=format, verbose=verbose, **kwargs)

    @property
    def loss_weights(self) -> TaskValues:
        """The user's constants: a live mapping, saved with the model; set to change them."""
        state = self._state()
        return TaskValues("loss_weights", list(self._plans), state.constants)

    @loss_weights.setter
    def loss_weights(self, values: Mapping[str, float]) -> None:
        mapping = self.loss_weights
        checks.task_keys("loss_weights", values, list(mapping), partial=True)
        checked = {
            task: checks.finite_weight(f"loss_weights['{task}']", value)
            for task, value in values.items()
        }
        mapping.update(checked)

    @property
    def task_weights(self) -> TaskValues:
        """The effective weights of the last step, read-only: derivative of the total times c."""
        state = self._state()
        return TaskValues("task_weights", list(self._plans), state.effective, read_only=True)

    def stop_task(self, task: str, *, head: str = "freeze") -> None:
        """Stops training `task`: from now on it is absent, for the trunk and for the methods.

        Args:
            task: String. The task's name.
            head: `"freeze"` leaves its private variables as they are; `"train"` trains them on,
                with its constant loss weight, behind a stop-gradient. The first time that costs
                a trace, unless `prepare_detached_heads` was called before.
        """
        checks.one_of("head", head, list(HEADS))
        self._stopped()[task] = HEADS[head]
        if head == "train":
            self.prepare_detached_heads()

    def prepare_detached_heads(self) -> None:
        """Makes the next step one in which `stop_task(..., head="train")` needs no new trace."""
        self._state()
        if not self._step.detachable:
            self._step.let_heads_train_alone(True)
            if self.train_function is not None:
                self.make_train_function(force=True)

    def resume_task(self, task: str) -> None:
        """Resumes training a stopped `task`."""
        self._stopped()[task] = 0.0

    def _stopped(self) -> TaskValues:
        state = self._state()
        return TaskValues("task", list(self._plans), state.stopped)

    def _state(self) -> TrainingState:
        if not self.compiled:
            raise RuntimeError(
                "`compile` must be called first: before it the model has no weights a task."
            )
        return self._training_state

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[str, Mapping[int, float]] | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the model, as in Keras; labels are checked before the first step.

        Args:
            x: As in Keras.
            y: Dict of labels by task. Missing labels: NaN where float, the head's `ignore_class`
                where integer class ids.
            batch_size: As in Keras.
            epochs: As in Keras.
            verbose: As in Keras.
            callbacks: As in Keras.
            validation_split: As in Keras.
            validation_data: As in Keras.
            shuffle: As in Keras.
            class_weight: Dict from task to a dict from class id to weight; classes left out
                weigh 1. May be combined with `sample_weight`: they multiply.
            sample_weight: Dict of arrays by task, tasks left out weigh 1; or one array for all.
            kwargs: `initial_epoch`, `steps_per_epoch`, `validation_steps`,
                `validation_batch_size` and `validation_freq`, as in Keras.

        Returns:
            Keras' `History`.
        """
        self._assert_compile_called("fit")
        self._use_class_weight(class_weight)
        x, y, sample_weight = self._feed.prepare(x, y, sample_weight)
        return translated(
            lambda: super(MultiTaskModel, self).fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=self._with_epoch_start(callbacks),
                validation_split=validation_split,
                validation_data=self._feed.prepare_validation(validation_data),
                shuffle=shuffle and self._feed.can_shuffle(x),
                sample_weight=sample_weight,
                **kwargs,
            )
        )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Measures the model, as in Keras; `loss` is sum_k c_k L_k, whatever the weighting."""
        self._assert_compile_called("evaluate")
        if not kwargs.get("_use_cached_eval_dataset"):
            x, y, sample_weight = self._feed.prepare(x, y, sample_weight)
        self._evaluating = True
        try:
            return translated(
                lambda: super(MultiTaskModel, self).evaluate(
                    x,
                    y,
                    batch_size=batch_size,
                    verbose=verbose,
                    sample_weight=sample_weight,
                    steps=steps,
                    callbacks=callbacks,
                    return_dict=return_dict,
                    **kwargs,
                )
            )
        finally:
            self._evaluating = False

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Takes one step on one batch, as in Keras; weights by task as in `fit`."""
        self._assert_compile_called("train_on_batch")
        self._use_class_weight(class_weight)
        x, y, sample_weight = self._feed.prepare(x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight=sample_weight, return_dict=return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Measures one batch, as in Keras; weights by task as in `fit`."""
        self._assert_compile_called("test_on_batch")
        x, y, sample_weight = self._feed.prepare(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight=sample_weight, return_dict=return_dict)

    def train_step(self, data: Any) -> dict[str, Any]:
        return self._step.train(data)

    def test_step(self, data: Any) -> dict[str, Any]:
        return self._step.evaluate(data)

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the current values of all logs, by name."""
        if self._evaluating:
            logs = self._step.logbook.results(training=False)
            return {"loss": self._step.evaluation_loss(), **logs}
        logs = self._step.logbook.results(training=True)
        return {"loss": self._loss_tracker.result(), **logs}

    def make_train_function(self, force: bool = False) -> Any:
        if self.train_function is None or force:
            self._follow_trainable()
            # Restored in this state, or stopped before the model was frozen in part.
            if np.any(np.asarray(self._training_state.stopped) == DETACHED):
                self._step.let_heads_train_alone(True)
            super().make_train_function(force=True)
            policy = self._compile_arguments["on_nonfinite"]
            if policy == "raise" or self._step.refuses_negative:
                self.train_function = self._reporting(self.train_function)
        return self.train_function

    def _follow_trainable(self) -> None:
        """Takes up what was frozen between `compile` and the first step, as Keras does."""
        found = {id(variable) for variable in self.trainable_variables}
        if found == {id(variable) for variable in self._step.model_variables}:
            return
        if not found <= {id(variable) for variable in self._step.model_variables}:
            raise RuntimeError(
                "Variables became trainable after `compile`, and the optimizer does not know them. "
                "Call `compile` again."
            )
        policy = self._compile_arguments["on_nonfinite"]
        detachable = self._step.detachable
        self._ready_step(self._plans, self._training_state, self._step.logbook, policy)
        self._step.let_heads_train_alone(detachable)

    def _reporting(self, execute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Reports bad batches after each execution."""
        policy = self._compile_arguments["on_nonfinite"]

        def execute_and_report(iterator: Any) -> Any:
            logs = execute(iterator)
            nonfinite.report(self._training_state, list(self._plans), policy)
            return logs

        return execute_and_report

    def _use_class_weight(self, class_weight: Any) -> None:
        tables = self._feed.class_tables(class_weight)
        before = {task: plan.class_weight for task, plan in self._plans.items()}
        if {task: tables.get(task) for task in before} != before:
            for task, plan in self._plans.items():
                plan.class_weight = tables.get(task)
            # The tables are constants of the step's graph.
            self.train_function = None

    def _with_epoch_start(self, callbacks: Any) -> Any:
        methods = (self._training_state.loss_weighting, self._training_state.gradient_balancing)
        hook = EpochStart([method for method in methods if method is not None])
        if isinstance(callbacks, keras.callbacks.CallbackList):
            # One that was used before holds the hook of that time.
            given = [part for part in callbacks.callbacks if not isinstance(part, EpochStart)]
            callbacks.callbacks = [hook, *savers_last(given)]
            return callbacks
        given = [part for part in keras.tree.flatten(callbacks) if part is not None]
        return [hook, *savers_last(given)]

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
