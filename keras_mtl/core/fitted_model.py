"""`fit`, `evaluate` and their like, with labels and weights a task."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_mtl.core import nonfinite
from keras_mtl.core.epoch_start import EpochStart, savers_last
from keras_mtl.core.feed import translated
from keras_mtl.core.kept import DETACHED
from keras_mtl.core.served_model import ServedModel


class FittedModel(ServedModel):
    """A model whose steps are those of a `Step`, fed through a `Feed`."""

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
            lambda: super(FittedModel, self).fit(
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
                lambda: super(FittedModel, self).evaluate(
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
