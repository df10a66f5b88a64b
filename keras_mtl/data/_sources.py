"""The data sets of a mixture, made alike: one structure of inputs, labels of every task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.data import _specs
from keras_mtl.data._markers import check_fillable, check_paddable, markers_of, missing_to_the_end

_CHUNK = 32  # rows that are filled at once


class Source(NamedTuple):
    """A data set of rows.

    Args:
        name: String.
        dataset: Data set whose elements are `(x, y)`.
        inputs: Structure of specs.
        labels: Dict from task to a structure of specs.
    """

    name: str
    dataset: tf.data.Dataset
    inputs: Any
    labels: dict[str, Any]


class Sources:
    """Checks data sets against each other, and gives rows of each the labels of all tasks.

    Args:
        datasets: Dict from name to data set, as in `keras_mtl.data.mix`.
        missing: Dict from task to the marker of its missing labels.
        padding: Dict from task to what pads its labels where that does not mean missing.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        missing: Mapping[str, Any],
        padding: Mapping[str, Any],
    ) -> None:
        self._sources = [_source(name, dataset) for name, dataset in _named(datasets).items()]
        for source in self._sources[1:]:
            _check_inputs(self._sources[0], source)
        self._labels = _merged_labels(self._sources)
        checks.task_keys("missing", missing, list(self._labels), partial=True)
        self._markers = {
            task: markers_of(task, spec, missing.get(task)) for task, spec in self._labels.items()
        }
        checks.task_keys("padding", padding, list(self._labels), partial=True)
        self._paddings = {
            task: checks.finite_number(f"padding['{task}']", value)
            for task, value in padding.items()
        }
        self._open = _open_in_inputs([source.inputs for source in self._sources])
        self._missing = self._partly_missing()
        for task in self._missing:
            check_fillable(task, self._labels[task], self._markers[task])

    def rows(self, *, endless: bool) -> list[tf.data.Dataset]:
        """Returns data sets of rows `(x, {task: label})` with all tasks."""
        return [self._filled(source, endless=endless) for source in self._sources]

    def batches(self, batch_size: int) -> list[tf.data.Dataset]:
        """Returns endless data sets of batches `(x, {task: label})` with all tasks."""
        if self._vary:
            return [self.batch(rows, batch_size) for rows in self.rows(endless=True)]
        return [
            source.dataset.repeat()
            .batch(batch_size, drop_remainder=True)
            .map(self._fill(source, many=True))
            for source in self._sources
        ]

    def batch(
        self, rows: tf.data.Dataset, batch_size: int, *, drop_remainder: bool = True
    ) -> tf.data.Dataset:
        """Batches rows; where they differ in length, pads them to the longest of the batch."""
        if not self._vary:
            return rows.batch(batch_size, drop_remainder=drop_remainder)
        zeros = tf.nest.map_structure(lambda spec: tf.zeros([], spec.dtype), rows.element_spec[0])
        batches = rows.padded_batch(
            batch_size, padding_values=(zeros, self._padding()), drop_remainder=drop_remainder
        )
        return batches.map(self._missing_as_whole) if self._paddings else batches

    def _missing_as_whole(self, x: Any, y: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return x, {
            task: tf.nest.map_structure(missing_to_the_end, label, self._markers[task])
            if task in self._paddings
            else label
            for task, label in y.items()
        }

    @property
    def _vary(self) -> bool:
        specs = tf.nest.flatten([source.dataset.element_spec for source in self._sources])
        return any(_specs.varies(spec) for spec in specs)

    def _filled(self, source: Source, *, endless: bool) -> tf.data.Dataset:
        # Repeated first: where a batch ends a pass, a checkpoint loses the state of a shuffle.
        rows = source.dataset.repeat() if endless else source.dataset
        if isinstance(rows.element_spec[1], Mapping) and not self._absent(source):
            return rows
        if not _specs.is_small(rows.element_spec):
            return rows.map(self._fill(source, many=False))
        # Calling a function costs more than copying a small row twice.
        chunks = rows.batch(_CHUNK, drop_remainder=endless)
        return chunks.map(self._fill(source, many=True)).unbatch()

    def _fill(self, source: Source, *, many: bool) -> Callable[[Any, Any], Any]:
        """Returns the function that adds labels of all tasks to a row, or to many."""
        missing = self._absent(source)

        def fill(x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
            shapes = [tf.shape(part) for part in tf.nest.flatten(x)]
            counts = [shapes[0][0]] if many else []
            row_shapes = [shape[1:] if many else shape for shape in shapes]
            added = {task: self._marked(task, counts, row_shapes) for task in missing}
            return x, {**(y if isinstance(y, Mapping) else {source.name: y}), **added}

        return tf.autograph.experimental.do_not_convert(fill)

    def _marked(self, task: str, counts: list[Any], shapes: list[Any]) -> Any:
        """Returns the missing labels of a row, or of many, whose inputs have these shapes."""

        def part(spec: Any, marker: Any) -> Any:
            lengths = [
                self._length(task, spec, axis, shapes) if length is None else length
                for axis, length in enumerate(spec.shape)
            ]
            return tf.fill([*counts, *lengths], tf.constant(marker, spec.dtype))

        return tf.nest.map_structure(part, self._labels[task], self._markers[task])

    def _length(self, task: str, spec: Any, axis: int, shapes: list[Any]) -> Any:
        """Returns how long a missing label is along an axis of no fixed length."""
        # Inputs that are open along the same axes come first: a tag a word, a class a pixel.
        places = [place for place, axes in enumerate(self._open) if axes == _specs.open_axes(spec)]
        same = [
            tf.debugging.assert_equal(
                shapes[place][axis],
                shapes[places[0]][axis],
                f"Two inputs of no fixed length differ in it, so that a missing label of task "
                f"'{task}' has no length. Pad its labels to a fixed length.",
            )
            for place in places[1:]
        ]
        # Others may lend a length of one axis, as letters to the tags of their words, but not to
        # labels in several parts: boxes are no rows of their image.
        if len(tf.nest.flatten(self._labels[task])) == 1:
            places += [place for place, axes in enumerate(self._open) if axis in axes]
        with tf.control_dependencies(same):
            return tf.identity(shapes[places[0]][axis]) if places else 1

    def _absent(self, source: Source) -> list[str]:
        return [task for task in self._missing if task not in source.labels]

    def _partly_missing(self) -> list[str]:
        return [
            task
            for task in self._labels
            if any(task not in source.labels for source in self._sources)
        ]

    def _padding(self) -> Any:
        def padding(task: str, spec: Any, marker: Any) -> Any:
            if task in self._paddings:
                return tf.cast(self._paddings[task], spec.dtype)
            if _specs.varies(spec):
                check_paddable(task, spec, marker)
            return tf.constant(marker, spec.dtype) if marker is not None else None

        return {
            task: tf.nest.map_structure(
                lambda spec, marker, task=task: padding(task, spec, marker),
                self._labels[task],
                self._markers[task],
            )
            for task in self._labels
        }


def _named(datasets: Any) -> Mapping[str, Any]:
    if isinstance(datasets, Mapping) and datasets:
        return datasets
    kind = ValueError if isinstance(datasets, Mapping) else TypeError
    raise kind(
        "`datasets` must be a dict from name to `tf.data.Dataset`, with one entry at least, "
        f"received {checks.describe(datasets)}. Write `{{'name': dataset, ...}}`."
    )


def _source(name: str, dataset: Any) -> Source:
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            f"`datasets['{name}']` must be a `tf.data.Dataset` of rows, received "
            f"{checks.describe(dataset)}. Arrays: `tf.data.Dataset.from_tensor_slices((x, y))`."
        )
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            f"`datasets['{name}']` must have elements `(x, label)` or `(x, {{task: label}})`, "
            f"received {_specs.text(spec)}. Map it: `dataset.map(lambda row: (x, y))`."
        )
    if any(_specs.is_slice_of_ragged(part) for part in tf.nest.flatten(spec)):
        dataset = dataset.map(lambda x, y: (x, y))
        spec = dataset.element_spec
    labels = dict(spec[1]) if isinstance(spec[1], Mapping) else {name: spec[1]}
    checks.task_names(labels)
    if not all(_specs.is_dense(part) for part in tf.nest.flatten(spec)):
        raise ValueError(
            f"`datasets['{name}']` must have dense tensors of known rank in its elements, received "
            f"{_specs.text(spec)}. Rows of different length are padded: give ragged ones by "
            "`.to_tensor()`, and generators an `output_signature`."
        )
    return Source(name, dataset, spec[0], labels)


def _check_inputs(first: Source, other: Source) -> None:
    if not _specs.alike(first.inputs, other.inputs):
        raise ValueError(
            f"`datasets['{other.name}']` must have the same inputs as `datasets['{first.name}']`, "
            f"so that rows of both go into one batch. Expected {_specs.text(first.inputs)}, "
            f"received {_specs.text(other.inputs)}. Map the data sets to one structure, dtype and "
            "shape."
        )


def _merged_labels(sources: list[Source]) -> dict[str, Any]:
    """Returns each task's label specs, as narrow as the data sets together tell."""
    merged, first = {}, {}
    for source in sources:
        for task, spec in source.labels.items():
            if task not in merged:
                merged[task], first[task] = spec, source.name
            elif _specs.alike(merged[task], spec):
                merged[task] = tf.nest.map_structure(_specs.narrowed, merged[task], spec)
            else:
                raise ValueError(
                    f"The labels of task '{task}' must be alike in all data sets. Expected "
                    f"{_specs.text(merged[task])}, as in `datasets['{first[task]}']`, received "
                    f"{_specs.text(spec)} in `datasets['{source.name}']`. Map them to one dtype "
                    "and shape, or give the tasks different names."
                )
    return merged


def _open_in_inputs(inputs: list[Any]) -> list[set[int]]:
    """Returns, for each part of the inputs, the axes that have no fixed length in some data set."""
    parts = zip(*map(tf.nest.flatten, inputs), strict=True)
    return [set().union(*map(_specs.open_axes, specs)) for specs in parts]
