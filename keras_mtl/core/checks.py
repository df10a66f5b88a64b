"""Composes every error about an argument: expected, received, and what to do next."""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
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
    without_loss: Collection[str] = (),
) -> None:
    """Checks that the mapping `received` is keyed by task names.

    Args:
        argument: String. The argument's name, for the message.
        received: The user's value.
        expected: The task names that may occur; all of them must unless `partial`.
        partial: Boolean. Whether tasks may be left out.
        advice: String. What to do when tasks are missing.
        without_loss: Tasks that the model has, but trains without a loss.
    """
    if not isinstance(received, Mapping):
        example = ", ".join(f"'{name}': ..." for name in expected)
        raise TypeError(
            f"`{argument}` must be a dict keyed by task name. "
            f"Expected keys {list(expected)}, received {describe(received)}. "
            f"Write `{argument}={{{example}}}`."
        )
    unknown = [key for key in received if key not in expected]
    missing = [] if partial else [key for key in expected if key not in received]
    if not unknown and not missing:
        return
    rule = "only task names as keys" if partial else "exactly one entry per task"
    hints = [
        f"Leave '{key}' out: the task has no loss."
        if key in without_loss
        else f"Rename the key '{key}' to '{near}', or name the task '{key}'."
        for key in unknown
        if (near := nearest(key, missing or expected)) or key in without_loss
    ]
    raise ValueError(
        f"`{argument}` must have {rule}. Expected keys {list(expected)}, "
        + " ".join(
            [
                f"received {list(received)}. Missing: {missing}. Unknown: {unknown}.",
                *hints,
                *([advice] if advice and missing else []),
            ]
        )
    )


def finite_weight(argument: str, value: Any, advice: str = "") -> float:
    """Returns `value` as a float, if it is a finite number >= 0.

    Args:
        argument: String. The argument's name, for the message.
        value: The user's value.
        advice: String. What to do next.
    """
    message = f"`{argument}` must be a finite number >= 0, received {describe(value)}. {advice}"
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(message.rstrip())
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(message.rstrip())
    return number


def loss_weight(argument: str, value: Any) -> float:
    """Returns the weight of a task's loss as a float, if it is a finite number >= 0."""
    return finite_weight(argument, value, "Use 0.0 to switch a task's loss off.")


def one_of(argument: str, value: object, allowed: Collection[Any]) -> None:
    """Checks that `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(
            f"`{argument}` must be one of {list(allowed)}, received {describe(value)}."
            + suggestion(value, [name for name in allowed if isinstance(name, str)])
        )


def positive_integer(argument: str, value: object) -> int:
    """Returns `value`, if it is an integer >= 1."""
    return _integer_from(1, argument, value)


def nonnegative_integer(argument: str, value: object) -> int:
    """Returns `value`, if it is an integer >= 0."""
    return _integer_from(0, argument, value)


def _integer_from(minimum: int, argument: str, value: object) -> int:
    message = f"`{argument}` must be an integer >= {minimum}, received {describe(value)}."
    # NumPy's integers too: `labels.max() + 1` is one.
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(message)
    if value < minimum:
        raise ValueError(message)
    return int(value)


def seed(argument: str, value: Any) -> int | None:
    """Returns a seed as Keras takes it, if it is `None` or an integer of at most 64 bits."""
    if value is None:
        return None
    message = (
        f"`{argument}` must be None or an integer from -2**63 to 2**63 - 1, received "
        f"{describe(value)}."
    )
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(message)
    if not -(2**63) <= value < 2**63:
        raise ValueError(message)
    return int(value)


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
    # NumPy's numbers too: `weights.mean()` is one.
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(message)
    if not math.isfinite(value) or not lowest <= value <= highest:
        raise ValueError(message)
    return float(value)


_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


def task_names(names: Collection[Any]) -> None:
    """Checks that the names can be layers, log keys and endpoints."""
    if not names:
        raise ValueError("A model needs at least one task, received none. Name one output a task.")
    for name in names:
        if not isinstance(name, str) or not _TASK_NAME.fullmatch(name):
            raise ValueError(
                "A task name must be a string of letters, digits, '_', '-' or '.' that starts with "
                f"a letter or digit, since layers and logs bear it, received {describe(name)}."
            )
        if name == "val" or name.startswith("val_"):
            raise ValueError(
                "A task name must not start with 'val_', nor be 'val', as validation logs do, "
                f"received '{name}'. Rename the task."
            )


def outputs_by_task(outputs: Any) -> None:
    """Checks that a model's outputs are a dict from task name to one task's outputs."""
    if not isinstance(outputs, Mapping):
        flat = outputs if isinstance(outputs, list | tuple) else [outputs]
        names = [
            getattr(getattr(x, "_keras_history", None), "operation", None) or f"task_{index}"
            for index, x in enumerate(flat)
        ]
        example = ", ".join(f"'{getattr(name, 'name', name)}': ..." for name in names)
        raise TypeError(
            "`outputs` must be a dict from task name to output, received "
            f"{type(outputs).__name__}. Write `outputs={{{example}}}`."
        )
    task_names(outputs)


def named(argument: str, names: Mapping[str, str | None], allowed: Collection[str]) -> None:
    """Checks what each task's argument names, where it names something, is in `allowed`."""
    for task, name in names.items():
        if name is not None and (name not in allowed or name == task):
            raise ValueError(
                f"`{argument}` of task '{task}' must be one of "
                f"{[key for key in allowed if key != task]}, received '{name}'."
                + suggestion(name, [key for key in allowed if key != task])
            )
