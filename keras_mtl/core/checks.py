"""Composes every error about an argument: expected, received, and what to do next."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def describe(value: object) -> str:
    """Returns a value and its type, short enough for an error message."""
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return f"{text} of type {type(value).__name__}"


def nearest(name: object, names: Iterable[str]) -> str | None:
    """Returns the name most like `name`, ignoring case and underscores, or `None`."""
    plain = {key.replace("_", "").lower(): key for key in names}
    found = difflib.get_close_matches(str(name).replace("_", "").lower(), plain, n=1, cutoff=0.5)
    return plain[found[0]] if found else None


def suggestion(name: object, names: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the nearest name, or an empty string."""
    found = nearest(name, names)
    return f" Did you mean '{found}'?" if found else ""


def task_keys(
    argument: str,
    received: Any,
    expected: Collection[str],
    *,
    partial: bool,
    advice: str = "",
    also: Collection[str] = (),
) -> None:
    """Checks that the mapping `received` is keyed by task names.

    Args:
        argument: String. The argument's name, for the message.
        received: The user's value.
        expected: The task names that may occur; all of them must unless `partial`.
        partial: Boolean. Whether tasks may be left out.
        advice: String. What to do when tasks are missing.
        also: Further keys that are allowed and never required.
    """
    if not isinstance(received, Mapping):
        example = ", ".join(f"'{name}': ..." for name in expected)
        raise TypeError(
            f"`{argument}` must be a dict keyed by task name. "
            f"Expected keys {list(expected)}, received {describe(received)}. "
            f"Write `{argument}={{{example}}}`."
        )
    unknown = [key for key in received if key not in expected and key not in also]
    missing = [] if partial else [key for key in expected if key not in received]
    if not unknown and not missing:
        return
    rule = "only task names as keys" if partial else "exactly one entry per task"
    hints = [
        f"Rename the key '{key}' to '{near}', or name the task '{key}'."
        for key in unknown
        if (near := nearest(key, missing or expected))
    ]
    raise ValueError(
        f"`{argument}` must have {rule}. Expected keys {list(expected)}, "
        f"received {list(received)}. Missing: {missing}. Unknown: {unknown}. "
        + " ".join([*hints, advice])
    )


def finite_weight(argument: str, value: Any) -> float:
    """Returns `value` as a float, if it is a finite number >= 0."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(
            f"`{argument}` must be a finite number >= 0, received {describe(value)}. "
            "Use 0.0 to switch a task's loss off."
        )
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(
            f"`{argument}` must be a finite number >= 0, received {describe(value)}. "
            "Use 0.0 to switch a task's loss off."
        )
    return number


def one_of(argument: str, value: object, allowed: Collection[Any]) -> None:
    """Checks that `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(
            f"`{argument}` must be one of {list(allowed)}, received {describe(value)}."
            + suggestion(value, [name for name in allowed if isinstance(name, str)])
        )


def positive_integer(argument: str, value: object) -> int:
    """Returns `value`, if it is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{argument}` must be an integer >= 1, received {describe(value)}.")
    if value < 1:
        raise ValueError(f"`{argument}` must be an integer >= 1, received {describe(value)}.")
    return value


def finite_number(
    argument: str, value: Any, *, minimum: float | None = None, maximum: float | None = None
) -> float:
    """Returns `value` as a float, if it is finite and within the bounds given."""
    bounds = {">=": minimum, "<=": maximum}
    texts = [f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None]
    expected = " ".join(["a finite number", " and ".join(texts)]).rstrip()
    lowest = -math.inf if minimum is None else minimum
    highest = math.inf if maximum is None else maximum
    return _number_within(argument, value, expected, lowest, highest)


def positive_number(argument: str, value: Any) -> float:
    """Returns `value` as a float, if it is finite and > 0."""
    smallest = math.ulp(0.0)
    return _number_within(argument, value, "a finite number > 0", smallest, math.inf)


def _number_within(
    argument: str, value: Any, expected: str, lowest: float, highest: float
) -> float:
    message = f"`{argument}` must be {expected}, received {describe(value)}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(message)
    if not math.isfinite(value) or not lowest <= value <= highest:
        raise ValueError(message)
    return float(value)
