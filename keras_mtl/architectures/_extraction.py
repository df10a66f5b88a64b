"""Levels of experts, shared ones and each task's own, with a gate for each task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_mtl.architectures._experts import Experts, mix
from keras_mtl.architectures._gates import Gate, gate_features
from keras_mtl.core import checks

SHARED = "shared"


@dataclass(frozen=True)
class Extraction:
    """Extracts features for each task, from its own experts and shared ones, level by level.

    Args:
        num_shared_experts: Integer >= 1, in each level.
        num_task_experts: Integer >= 1, of each task in each level.
        temperature: As in `Gate`, also the next two.
        gate_dropout: Float.
        load_balancing: Float.
        copy_weights: Boolean. Whether every expert starts from the trunk's weights.
    """

    num_shared_experts: int
    num_task_experts: int
    temperature: float
    gate_dropout: float
    load_balancing: float
    copy_weights: bool

    def __post_init__(self) -> None:
        checks.positive_integer("num_shared_experts", self.num_shared_experts)
        checks.positive_integer("num_task_experts", self.num_task_experts)
        self._gate(1, "checked")  # refuses wrong options before anything is built

    def __call__(
        self, levels: Sequence[Sequence[keras.layers.Layer]], inputs: Any, tasks: Iterable[str]
    ) -> dict[str, Any]:
        """Returns each task's features.

        Args:
            levels: For each level the stages that make one expert.
            inputs: What the experts of the first level read, and its gates, pooled.
            tasks: The tasks' names.

        Raises:
            ValueError: If a task's name is that of what is shared.
        """
        _check_names(tasks)
        features = dict.fromkeys([*tasks, SHARED], inputs)
        pooled = dict.fromkeys(features, gate_features(inputs))
        for index, stages in enumerate(levels):
            if index:
                pooled = _pooled(features, f"level_{index}_")
            prefix = f"level_{index}_" if len(levels) > 1 else ""
            last = index == len(levels) - 1
            features = self._level(stages, features, pooled, prefix, last)
        return features

    def _level(
        self,
        stages: Sequence[keras.layers.Layer],
        features: Mapping[str, Any],
        pooled: Mapping[str, Any],
        prefix: str,
        last: bool,
    ) -> dict[str, Any]:
        groups = self._groups(stages, features, prefix)
        read = {owner: [groups[owner], groups[SHARED]] for owner in features if owner != SHARED}
        if not last:
            read[SHARED] = [*groups.values()]
        return {
            owner: self._mixed(chosen, pooled[owner], f"{prefix}{owner}")
            for owner, chosen in read.items()
        }

    def _groups(
        self, stages: Sequence[keras.layers.Layer], features: Mapping[str, Any], prefix: str
    ) -> dict[str, Experts]:
        groups: dict[str, Experts] = {}
        for owner, inputs in features.items():
            groups[owner] = Experts(
                stages,
                self.num_shared_experts if owner == SHARED else self.num_task_experts,
                inputs,
                f"{prefix}{owner}_expert",
                first=sum(group.num_experts for group in groups.values()),
                copy_weights=self.copy_weights,
            )
        return groups

    def _mixed(self, groups: Sequence[Experts], pooled: Any, name: str) -> Any:
        num_experts = sum(group.num_experts for group in groups)
        return mix(self._gate(num_experts, f"{name}_gate")(pooled), groups, f"{name}_mixture")

    def _gate(self, num_experts: int, name: str) -> Gate:
        return Gate(
            num_experts, self.temperature, self.gate_dropout, self.load_balancing, name=name
        )


def _pooled(features: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        owner: gate_features(own, f"{prefix}{owner}_gate_inputs") for owner, own in features.items()
    }


def _check_names(tasks: Iterable[str]) -> None:
    if SHARED in tasks:
        raise ValueError(
            f"A task must not be named '{SHARED}', as the experts and the gate of all tasks are. "
            "Rename the task."
        )
