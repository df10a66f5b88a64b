"""Copies of a trunk's stages: a column for each task, or for each expert."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mtl.architectures import _graph
from keras_mtl.core import checks
from keras_mtl.core.rebuild import called, rebuild, resolve_trunk


def stages_of(trunk: Any, architecture: str) -> list[keras.layers.Layer]:
    """Returns the stages of a trunk that must come as a list.

    Args:
        trunk: What the user gave the builder.
        architecture: String. The builder's name, for the message.

    Raises:
        TypeError: If `trunk` is none of the forms that builders take.
        ValueError: If it is a single layer or model, an empty list, or one with an input in it.
    """
    trunk = called(trunk)
    stages = resolve_trunk(trunk)
    if isinstance(trunk, keras.layers.Layer):
        inner = "`trunk.layers`" if isinstance(trunk, keras.Sequential) else "`[stage1, stage2]`"
        raise ValueError(
            f"`trunk` of {architecture} must be a list of stages, between which tasks share, "
            f"received {checks.describe(trunk)}. Give a list of layers or models, such as {inner}."
        )
    return stages


class Column:
    """A copy of the stages of a trunk, with values of its own.

    Args:
        stages: List of layers or models; they stay as they are.
        name: String. The copies are named `<name>_<stage>`, or `<name>` where one is made of a
            single stage.
        index: Integer >= 0. Which copy it is; columns of different index start from different
            values, also where stages have seeds.
        copy_weights: Boolean. Whether the copy starts from the values of the stages instead.
    """

    def __init__(
        self,
        stages: Sequence[keras.layers.Layer],
        name: str,
        index: int,
        *,
        copy_weights: bool = False,
    ) -> None:
        checks.one_of("copy_weights", copy_weights, (False, True))
        self.name = name
        self._originals = list(stages)
        self._copy_weights = copy_weights
        # Offset, so that the seeds of one column are not those of the next stage of another.
        offset = 1000 * (index + 1)
        single = len(self._originals) == 1
        # By stage, so that one that comes twice is one layer in the copy too.
        copies: dict[int, keras.layers.Layer] = {}
        for stage in self._originals:
            own = name if single else f"{name}_{stage.name}"
            if id(stage) not in copies:
                copies[id(stage)] = rebuild(stage, own, seed_offset=offset)
        self.stages = [copies[id(stage)] for stage in self._originals]

    def stage(self, index: int, features: Any) -> Any:
        """Returns what the stage of that index makes of `features`.

        Raises:
            ValueError: If the stage cannot take them, or has no values to copy yet.
        """
        original, copy = self._originals[index], self.stages[index]
        if self._copy_weights and not original.built:
            raise ValueError(
                f"`copy_weights=True` needs a trunk with weights, stage '{original.name}' is not "
                "built yet. Call it on data or `build` it before, or load its weights."
            )
        features = _graph.apply_stages([copy], features)
        if self._copy_weights:
            copy.set_weights(original.get_weights())
        return features

    def __call__(self, features: Any) -> Any:
        """Returns what all stages, one after the other, make of `features`."""
        for index in range(len(self.stages)):
            features = self.stage(index, features)
        return features


def task_columns(
    stages: Sequence[keras.layers.Layer], tasks: Any, *, copy_weights: bool = False
) -> dict[str, Column]:
    """Returns a column for each task, `<task>_<stage>`, or `<task>_column` of a single stage."""
    single = len(stages) == 1
    return {
        task: Column(stages, f"{task}_column" if single else task, index, copy_weights=copy_weights)
        for index, task in enumerate(tasks)
    }


def one_tensor(features: Any, stage: keras.layers.Layer, architecture: str) -> Any:
    """Returns `features`, which must be one tensor for it to be mixed with others.

    Raises:
        ValueError: If a stage has returned a dict.
    """
    if isinstance(features, keras.KerasTensor):
        return features
    raise ValueError(
        f"Stages of {architecture} must return one tensor each, stage '{stage.name}' returns a "
        f"dict with the entries {list(features)}. Return one of them, or join them in the stage."
    )
