"""Predicts who rents bicycles in an hour, casual and registered users, by one network.

    python examples/demand.py --data hour.csv             # one run
    python examples/demand.py --data hour.csv --seeds 3   # mean and deviation

The data is Bike Sharing (Fanaee-T and Gama 2013, Progress in Artificial Intelligence, CC BY 4.0):
17,379 hours of 2011 and 2012 in Washington with calendar, weather and two counts,
https://doi.org/10.24432/C5W894. The last 20 % of the hours are for test and the 10 % before them
for validation, so training sees earlier hours alone. The weather is the one observed in the hour
itself and stands for a forecast of it, which would be less exact. There are four times as many
registered users as casual ones. Single-task models come first, then the mean of the same hour and
weekday, then the two tasks with one trunk. Everything is written below `keras_mtl_runs/`.
"""

import csv
import datetime

import comparison  # the file next to this one
import keras
import numpy as np
from keras import layers
from sklearn.metrics import mean_absolute_error, root_mean_squared_log_error

import keras_mtl

# The calendar, and the weather observed in the hour (`weathersit`, `temp`, `atemp`, `hum` and
# `windspeed`). `cnt`, the sum of both counts, is no input, nor is either count.
CATEGORIES = {
    "season": range(1, 5),
    "mnth": range(1, 13),
    "hr": range(24),
    "weekday": range(7),
    "weathersit": range(1, 5),
}
NUMBERS = ("yr", "holiday", "workingday", "temp", "atemp", "hum", "windspeed")
COUNTS = ("casual", "registered")
VALIDATION_FROM, TEST_FROM = 0.7, 0.8
EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
CONSTANT, MULTI = "same hour and weekday", "multi-task"
METHODS = {
    MULTI: {},
    "uncertainty": {"loss_weighting": "uncertainty"},
    "scale_invariant": {"loss_weighting": "scale_invariant"},
    "pcgrad": {"gradient_balancing": "pcgrad"},
}
MEASURES = tuple(
    comparison.Measure(f"{task}_{key}", f"{task}, {title}", decimals, higher_is_better=False)
    for key, title, decimals in (("mae", "mean absolute error", 2), ("rmsle", "RMSLE", 3))
    for task in COUNTS
)


def read_number(row, column, place):
    """Returns a value of a row as a finite number."""
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{place}: {column} must be a number, received {row[column]!r}.")
    return value


def read_row(row, place):
    """Returns the time, the numbers and the counts of a row."""
    values = {name: read_number(row, name, place) for name in (*CATEGORIES, *NUMBERS, *COUNTS)}
    for name, known in CATEGORIES.items():
        if values[name] not in known:
            raise ValueError(f"{place}: {name} must be in {known}, received {row[name]!r}.")
    for name in COUNTS:
        if values[name] < 0 or values[name] % 1:
            raise ValueError(f"{place}: {name} must be a count, received {row[name]!r}.")
    try:
        day = datetime.datetime.fromisoformat(row["dteday"])
    except ValueError as error:
        raise ValueError(f"{place}: dteday must be a date, received {row['dteday']!r}.") from error
    return day + datetime.timedelta(hours=values["hr"]), values


def read(path):
    """Returns the columns of all hours by name; an hour must be later than the one before it."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = sorted({"dteday", *CATEGORIES, *NUMBERS, *COUNTS} - set(rows.fieldnames or ()))
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}, has {rows.fieldnames}.")
        before, hours = datetime.datetime.min, []
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            now, values = read_row(row, place)
            if now <= before:
                raise ValueError(f"{place}: {now} must be later than {before}, the row before.")
            before = now
            hours.append(values)
    return {
        name: np.array([values[name] for values in hours], "float32")
        for name in (*CATEGORIES, *NUMBERS, *COUNTS)
    }


def split_by_time(count):
    """Returns the rows of each split: the past trains, the last hours test."""
    train, validation, test = np.split(
        np.arange(count), [round(VALIDATION_FROM * count), round(TEST_FROM * count)]
    )
    if not (len(train) and len(validation) and len(test)):
        raise ValueError(f"There must be hours for each of three splits, received {count} hours.")
    return {"train": train, "validation": validation, "test": test}


def make_inputs(hours, past):
    """Returns a 1 in the place of each category, and the numbers scaled as in training rows."""
    inputs = [
        (hours[name][:, None] == np.array(known)).astype("float32")
        for name, known in CATEGORIES.items()
    ]
    for name in NUMBERS:
        known = hours[name][past]
        spread = known.std() or 1.0  # a column that does not change stays 0
        inputs.append((hours[name][:, None] - known.mean()) / spread)
    return np.concatenate(inputs, axis=1)


def make_splits(hours):
    """Returns the inputs and the counts of each split."""
    rows = split_by_time(len(hours["hr"]))
    inputs = make_inputs(hours, rows["train"])
    return {
        split: (inputs[chosen], {task: hours[task][chosen, None] for task in COUNTS})
        for split, chosen in rows.items()
    }


def make_model(names, width):
    """Builds a model for one or both of the counts, with a trunk of the same size.

    A count has the noise of a Poisson distribution, more where it is higher; the deviance knows
    that, and a squared error would see only rush hours. With an exponential as the last step
    what features do multiplies: rain takes away a share of the users, not a number of them.
    """
    tasks = {name: keras_mtl.heads.Counting(activation="exponential") for name in names}
    inputs = keras.Input((width,), name="hour")
    stages = []
    for units in (128, 64):
        stages += [layers.Dense(units, activation="relu"), layers.Dropout(0.2)]
    return keras_mtl.architectures.hard_sharing(inputs, keras.Sequential(stages), tasks)


def measure(predictions, counts):
    """Returns the errors of each count that was predicted, on its own scale."""
    values = {}
    for task, rates in predictions.items():
        values[f"{task}_mae"] = float(mean_absolute_error(counts[task], rates))
        values[f"{task}_rmsle"] = float(root_mean_squared_log_error(counts[task], rates))
    return values


def train(names, splits, epochs, seed, title, **balancing):
    """Trains one model; returns it and the minutes it took."""
    keras.utils.set_random_seed(seed)
    inputs, counts = splits["train"]
    model = make_model(names, inputs.shape[1])
    # A fixed schedule, chosen on validation rows.
    steps = epochs * int(np.ceil(len(inputs) / BATCH_SIZE))
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), **balancing)
    held_out, answers = splits["validation"]
    _, minutes = comparison.fit(
        model,
        inputs,
        {name: counts[name] for name in names},
        title=f"{title}: {', '.join(names)}",
        validation_data=(held_out, {name: answers[name] for name in names}),
        batch_size=BATCH_SIZE,
        epochs=epochs,
    )
    return model, minutes


def repeat_week(hours, rows):
    """Predicts each count of the test hours as the mean of the same hour and weekday before."""
    slot = (24 * hours["weekday"] + hours["hr"]).astype(int)
    past, future = slot[rows["train"]], slot[rows["test"]]
    numbers = np.bincount(past, minlength=168)
    predictions = {}
    for task in COUNTS:
        known = hours[task][rows["train"]]
        sums = np.bincount(past, known, minlength=168)
        means = np.where(numbers > 0, sums / np.maximum(numbers, 1), known.mean())
        predictions[task] = means[future, None]
    return predictions


def run_seed(hours, options, seed):
    """Trains every model; returns what they reach on test rows, and what the plain one predicts."""
    splits = make_splits(hours)
    inputs, counts = splits["test"]
    single = {comparison.MINUTES: 0.0}
    for task in COUNTS:
        model, minutes = train([task], splits, options.epochs, seed, comparison.SINGLE)
        single.update(measure(model.predict(inputs, batch_size=1024, verbose=0), counts))
        single[comparison.MINUTES] += minutes
    naive = measure(repeat_week(hours, split_by_time(len(hours["hr"]))), counts)
    results = {comparison.SINGLE: single, CONSTANT: {**naive, comparison.MINUTES: 0.0}}
    shown = {}
    for method, balancing in METHODS.items():
        model, minutes = train(COUNTS, splits, options.epochs, seed, method, **balancing)
        found = model.predict(inputs, batch_size=1024, verbose=0)
        results[method] = {**measure(found, counts), comparison.MINUTES: minutes}
        shown[method] = found
    return results, shown[MULTI]


def draw_week(axes, predictions, counts):
    """Draws the first week of the test hours: what was counted, and what was predicted."""
    week = slice(0, 168)
    for task, colour in zip(COUNTS, comparison.COLOURS, strict=False):
        axes.plot(counts[task][week], color=colour, linewidth=1, label=f"{task}, counted")
        axes.plot(predictions[task][week], color=colour, linestyle=":", label="predicted")
    axes.set_xlabel("hours")
    axes.set_title(f"The first test week, {MULTI}", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def main(arguments=None):
    """Trains, compares and draws; returns the rows, the table and the folder of the results."""
    options = comparison.parse(
        __doc__.splitlines()[0], arguments, data="hour.csv of Bike Sharing", epochs=EPOCHS
    )
    hours = read(options.data)
    rows, folder, predictions = comparison.repeat_and_keep(
        "demand", lambda seed: run_seed(hours, options, seed), options.seeds
    )

    def picture(axes):
        draw_week(axes, predictions, make_splits(hours)["test"][1])

    return comparison.report("demand", rows, MEASURES, folder, [picture], undrawn=[CONSTANT])


if __name__ == "__main__":
    main()
