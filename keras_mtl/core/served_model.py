"""A model's single tasks, as models and as endpoints."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_mtl.core import checks, serving
from keras_mtl.core.task_controls import TaskControls


class ServedModel(TaskControls):
    """A model that serves its tasks together or one by one."""

    def task_model(self, task: str) -> keras.Model:
        """Returns the single-task functional model of `task`, which shares this one's weights.

        Args:
            task: String. The task's name.

        Raises:
            TypeError: If `task` is no string.
            ValueError: If the model has no such task.
        """
        if not isinstance(task, str):
            raise TypeError(
                f"`task` must be the name of one task, of {list(self.tasks)}, received "
                f"{checks.describe(task)}. For several call it once for each."
            )
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
        flat as `<task>_<output>`. Served are the answers of the heads' `decode`.

        Other formats hold the tasks together only, and their predictions, as `predict` returns
        them: give these to the heads' `decode` after loading, or serve a SavedModel.

        Args:
            filepath: String. Where to write.
            format: As in Keras: `"tf_saved_model"` by default, `"onnx"`, `"litert"`, ...
            verbose: As in Keras.
            tasks: Optional list of task names; by default those that are not auxiliary.
            kwargs: Further arguments of Keras' export of that format, such as `input_signature`:
                shapes and dtypes of the inputs, by name or in order.

        Raises:
            TypeError: If `tasks` is no list of strings, or an input's signature has no shape and
                dtype.
            ValueError: If a task is unknown or named twice, if `tasks` is empty, if all tasks
                are auxiliary and none is named, if `input_signature` does not fit the inputs, or
                if two outputs would be served by the same name.
        """
        chosen = self._main_tasks() if tasks is None else self._named_tasks(tasks)
        if format == "tf_saved_model":
            serving.export(
                str(filepath), self, chosen, verbose=verbose is None or verbose, **kwargs
            )
            return
        part = keras.Model(self.input, {task: self.output[task] for task in chosen})
        if kwargs.get("input_signature") is None:
            # Some exporters of Keras find none for a model that was not called, as `part` is not.
            kwargs["input_signature"] = [keras.tree.map_structure(_spec, self.input)]
        part.export(filepath, format=format, verbose=verbose, **kwargs)

    def _main_tasks(self) -> list[str]:
        main = [task for task, spec in self.tasks.items() if not spec.auxiliary]
        if not main:
            raise ValueError(
                "`tasks` must name a task to export: all of "
                f"{list(self.tasks)} are auxiliary. Write `tasks=[...]`."
            )
        return main

    def _named_tasks(self, tasks: Any) -> list[str]:
        example = [tasks] if isinstance(tasks, str) else list(self.tasks)
        if isinstance(tasks, str) or not isinstance(tasks, Iterable):
            raise TypeError(
                f"`tasks` must be a list of task names, received {checks.describe(tasks)}. Write "
                f"`tasks={example}`."
            )
        chosen = list(tasks)
        if not all(isinstance(task, str) for task in chosen):
            raise TypeError(
                f"`tasks` must hold names of tasks, received {checks.describe(chosen)}. Write "
                f"`tasks={example}`."
            )
        checks.task_keys("tasks", dict.fromkeys(chosen), list(self.tasks), partial=True)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"`tasks` must name one task at least, and each once, received {chosen}. Leave it "
                "out to export those that are not auxiliary."
            )
        return chosen


def _spec(tensor: Any) -> keras.InputSpec:
    shape = (None, *tensor.shape[1:])
    return keras.InputSpec(dtype=tensor.dtype, shape=shape, name=tensor.name)
