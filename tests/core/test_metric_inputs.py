"""Metrics count the labelled elements of a multi-label task, each and no other."""

import keras
import numpy as np
import pytest
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_score,
    r2_score,
    recall_score,
)

import keras_mtl
from keras_mtl import Task
from keras_mtl.heads import BinaryClassification, Classification, Regression

ROWS, COLUMNS = 40, 3
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 4)).astype("float32")
WEIGHT = random.uniform(0.5, 2.0, size=ROWS).astype("float32")
TRUTH = random.integers(0, 2, size=(ROWS, COLUMNS))
PRESENT = random.uniform(size=(ROWS, COLUMNS)) < 0.7
GAPS = {"NaN": np.where(PRESENT, TRUTH, np.nan), "-1": np.where(PRESENT, TRUTH, -1)}


def build(head, metrics, weighted_metrics=None, **compile_arguments):
    inputs = keras.Input((4,), name="x")
    trunk = keras.layers.Dense(5, activation="tanh", name="trunk")
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, {"a": head})
    weighted = None if weighted_metrics is None else {"a": weighted_metrics}
    metrics = {"a": metrics}
    model.compile("sgd", metrics=metrics, weighted_metrics=weighted, **compile_arguments)
    return model


def measured(model, labels, **arguments):
    y = {"a": labels}
    return model.evaluate(X, y, batch_size=16, verbose=0, return_dict=True, **arguments)


def of_keras(metric, y, p):
    """The metric in plain Keras, of labels and predictions without gaps."""
    metric.update_state(y, p)
    return float(metric.result())


def by_column(measure, p):
    columns = zip(TRUTH.T, p.T, PRESENT.T, strict=True)
    return np.array([measure(y[there], column[there]) for y, column, there in columns])


def f1_of(average):
    """The F1 of sklearn, which takes no gaps but weights a column."""

    def score(p):
        if average == "micro":
            return f1_score(TRUTH[PRESENT], p[PRESENT] > 0.5)
        scores = by_column(lambda y, q: f1_score(y, q > 0.5), p)
        support = by_column(lambda y, q: y.sum(), p)
        return {None: scores, "macro": scores.mean()}.get(
            average, np.average(scores, weights=support)
        )

    return score


METRICS = keras.metrics
# Each with what sklearn, or Keras without gaps, makes of the labelled elements.
MULTI_LABEL = {
    "true_positives": (METRICS.TruePositives, lambda p: counts(p)[1, 1]),
    "false_positives": (METRICS.FalsePositives, lambda p: counts(p)[0, 1]),
    "true_negatives": (METRICS.TrueNegatives, lambda p: counts(p)[0, 0]),
    "false_negatives": (METRICS.FalseNegatives, lambda p: counts(p)[1, 0]),
    "precision": (METRICS.Precision, lambda p: precision_score(TRUTH[PRESENT], p[PRESENT] > 0.5)),
    "precision_of_column": (
        lambda: METRICS.Precision(class_id=1),
        lambda p: by_column(lambda y, q: precision_score(y, q > 0.5), p)[1],
    ),
    "recall_of_column": (
        lambda: METRICS.Recall(class_id=2),
        lambda p: by_column(lambda y, q: recall_score(y, q > 0.5), p)[2],
    ),
    "recall_of_column_in_top_2": (
        lambda: METRICS.Recall(class_id=0, top_k=2),
        lambda p: recall_score(*labelled(0, p.argsort(axis=1).argsort(axis=1)[:, 0] > 0)),
    ),
    "f1": (lambda: METRICS.F1Score(threshold=0.5), f1_of(None)),
    "f1_micro": (lambda: METRICS.F1Score("micro", 0.5), f1_of("micro")),
    "f1_macro": (lambda: METRICS.F1Score("macro", 0.5), f1_of("macro")),
    "f1_weighted": (lambda: METRICS.F1Score("weighted", 0.5), f1_of("weighted")),
    "auc_by_label": (
        lambda: METRICS.AUC(multi_label=True),
        lambda p: by_column(lambda y, q: of_keras(METRICS.AUC(), y, q), p).mean(),
    ),
    "auc_of_weighted_labels": (
        lambda: METRICS.AUC(multi_label=True, label_weights=[1.0, 2.0, 5.0]),
        lambda p: by_column(lambda y, q: of_keras(METRICS.AUC(), y, q), p) @ [1, 2, 5] / 8,
    ),
    "sensitivity": (
        lambda: METRICS.SensitivityAtSpecificity(0.6),
        lambda p: of_all(METRICS.SensitivityAtSpecificity(0.6), p),
    ),
    "specificity": (
        lambda: METRICS.SpecificityAtSensitivity(0.6),
        lambda p: of_all(METRICS.SpecificityAtSensitivity(0.6), p),
    ),
    "precision_at_recall": (
        lambda: METRICS.PrecisionAtRecall(0.6),
        lambda p: of_all(METRICS.PrecisionAtRecall(0.6), p),
    ),
    "recall_at_precision_of_column": (
        lambda: METRICS.RecallAtPrecision(0.4, class_id=1),
        lambda p: by_column(lambda y, q: of_keras(METRICS.RecallAtPrecision(0.4), y, q), p)[1],
    ),
}


def counts(p):
    return confusion_matrix(TRUTH[PRESENT], p[PRESENT] > 0.5)


def of_all(metric, p):
    return of_keras(metric, TRUTH[PRESENT], p[PRESENT])


def labelled(column, positive):
    there = PRESENT[:, column]
    return TRUTH[there, column], positive[there]


@pytest.fixture(scope="module")
def multi_label():
    keras.utils.set_random_seed(0)
    metrics = {name: make() for name, (make, _) in MULTI_LABEL.items()}
    for name, metric in metrics.items():
        metric.name = name
    model = build(BinaryClassification(COLUMNS), list(metrics.values()))
    logs = {marker: measured(model, labels) for marker, labels in GAPS.items()}
    return logs, model.predict(X, verbose=0)["a"]


@pytest.mark.parametrize("marker", GAPS)
@pytest.mark.parametrize("name", MULTI_LABEL)
def test_a_metric_counts_each_labelled_element_and_no_other(multi_label, name, marker):
    logs, predictions = multi_label
    expected = MULTI_LABEL[name][1](predictions)
    np.testing.assert_allclose(logs[marker][f"a_{name}"], expected, rtol=1e-5)


def test_r2_and_root_mean_squared_error_leave_out_single_columns():
    metrics = [keras.metrics.R2Score(None), keras.metrics.RootMeanSquaredError(name="rmse")]
    model = build(Regression(COLUMNS), metrics)
    labels = random.normal(size=(ROWS, COLUMNS)).astype("float32")
    logs = measured(model, np.where(PRESENT, labels, np.nan))
    p = model.predict(X, verbose=0)["a"]
    columns = zip(labels.T, p.T, PRESENT.T, strict=True)
    expected = [r2_score(y[there], q[there]) for y, q, there in columns]
    np.testing.assert_allclose(logs["a_r2_score"], expected, rtol=1e-4)
    rmse = np.sqrt(np.square(labels - p)[PRESENT].mean())
    np.testing.assert_allclose(logs["a_rmse"], rmse, rtol=1e-5)


def test_weights_of_rows_count_in_metrics_of_single_columns():
    metrics = [keras.metrics.TruePositives(name="true"), keras.metrics.F1Score("micro", 0.5)]
    model = build(BinaryClassification(COLUMNS), None, metrics)
    logs = measured(model, GAPS["NaN"], sample_weight={"a": WEIGHT})
    positive = model.predict(X, verbose=0)["a"] > 0.5
    weights = np.broadcast_to(WEIGHT[:, None], TRUTH.shape)
    true_positives = (weights * TRUTH * positive)[PRESENT].sum()
    f1 = f1_score(TRUTH[PRESENT], positive[PRESENT], sample_weight=weights[PRESENT])
    np.testing.assert_allclose(logs["a_true"], true_positives, rtol=1e-5)
    np.testing.assert_allclose(logs["a_f1_score"], f1, rtol=1e-5)


ROW_METRICS = {
    "f1_score": lambda: keras.metrics.F1Score("macro"),
    "recall": lambda: keras.metrics.Recall(top_k=1, name="recall"),
    "cosine_similarity": lambda: "cosine_similarity",
    "categorical_accuracy": lambda: "categorical_accuracy",
}


@pytest.mark.parametrize("name", ROW_METRICS)
def test_compile_warns_of_metrics_that_leave_out_whole_rows(name):
    with pytest.warns(
        UserWarning, match=rf"of task 'a' holds \['{name}'\].* has no label"
    ) as warned:
        build(BinaryClassification(COLUMNS), ROW_METRICS[name]())
    assert warned[0].filename == __file__


def test_compile_does_not_warn_where_columns_cannot_miss_one_by_one():
    one_hot = Task(Classification(COLUMNS), loss="categorical_crossentropy")
    for head in (BinaryClassification(), one_hot):
        build(head, [make() for make in ROW_METRICS.values()])


COMPLETE = TRUTH.astype("float32")


@pytest.mark.parametrize("labels", [COMPLETE, np.where(PRESENT, TRUTH, -1)])
@pytest.mark.parametrize("on_nonfinite", [None, "skip"])
def test_intersection_over_union_counts_labelled_elements(labels, on_nonfinite):
    metric = keras.metrics.BinaryIoU(target_class_ids=[1], name="iou")
    model = build(BinaryClassification(COLUMNS), [metric], on_nonfinite=on_nonfinite)
    p = model.predict(X, verbose=0)["a"]
    logs = model.train_on_batch(X, {"a": labels}, return_dict=True)
    there = labels >= 0
    assert logs["a_iou"] == pytest.approx(jaccard_score(TRUTH[there], p[there] >= 0.5), rel=1e-5)


@pytest.mark.parametrize("kind", ["PearsonCorrelation", "ConcordanceCorrelation"])
def test_metrics_that_compare_rows_leave_out_those_with_a_gap(kind):
    def metric():
        return getattr(keras.metrics, kind)(axis=0, name="correlation")

    labels = random.normal(size=(ROWS, COLUMNS)).astype("float32")
    model = build(Regression(COLUMNS), [metric()])
    p = model.predict(X, verbose=0)["a"]
    whole = PRESENT.all(axis=1)
    for y, rows in ((labels, slice(None)), (np.where(PRESENT, labels, np.nan), whole)):
        logs = model.test_on_batch(X, {"a": y}, return_dict=True)
        expected = of_keras(metric(), labels[rows], p[rows])
        assert logs["a_correlation"] == pytest.approx(expected, rel=1e-4)


def test_a_metric_that_cannot_be_updated_is_named_with_its_task():
    metric = keras.metrics.F1Score(threshold=0.5, name="f1")
    model = keras_mtl.architectures.hard_sharing(
        keras.Input((2, 4), name="x"),
        keras.layers.Dense(3),
        {"a": BinaryClassification(COLUMNS, pooling=None)},
    )
    model.compile("sgd", metrics={"a": [metric]})
    message = r"`metrics` of task 'a': 'f1' cannot be updated with labels of shape \(.*2, 3\), pred"
    with pytest.raises(ValueError, match=message):
        model.evaluate(np.zeros((4, 2, 4)), {"a": np.zeros((4, 2, COLUMNS))}, verbose=0)
