"""What balancings that can prefer some tasks share."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core.preference import Preference
from keras_mtl.core.roles import TaskRole


class PreferringBalancing(GramianBalancing):
    """Base class of balancings of the Gramian with a `preference` among the tasks.

    A subclass writes `solve(gramian, active)` and reads `self.shares(active)`.

    Args:
        preference: `None` for equal preference, a sequence of numbers > 0 in the order of the
            tasks, or a dict from task name to a number > 0 (1 for tasks left out). Only their
            ratios count.
        scope: `"parameters"` or `"features"`, as in `GradientBalancing`.
        refresh_every: Integer >= 1, as in `GramianBalancing`.
        name: Optional string. Name of the layer.
    """

    def __init__(
        self,
        preference: Sequence[float] | Mapping[str, float] | None = None,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self._preference = Preference(preference)

    @property
    def preference(self) -> Any:
        """The preference as given."""
        return self._preference.given

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks, which the preference must name."""
        self._preference.check(roles)
        return super().bind(roles)

    def shares(self, active: Any) -> Any:
        """Returns how much each active task is preferred, `(num_tasks,)`, with sum 1."""
        return self._preference.shares(self.roles, active)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "preference": self.preference}
