"""Predicts twelve toxicity assays of a molecule, of which many were never run, by one network.

    python examples/assays.py --data tox21.csv.gz             # or the csv file itself
    python examples/assays.py --data tox21.csv.gz --seeds 5   # mean and deviation

The data is Tox21 (Tox21 Data Challenge 2014, public data of NIH/NCATS; MoleculeNet, Wu et al. 2018,
Chem. Sci. 9:513): 8,014 rows of 7,831 molecules as SMILES, a text, and a column of 0, 1 or nothing
for each assay, https://github.com/deepchem/deepchem, `datasets/tox21.csv.gz`. A sixth of the labels
is missing. Single-task networks come first, then logistic regression on all n-grams of the text, of
which the networks get 400 principal components, then the twelve tasks with one trunk. Each seed
splits the molecules anew. The schedule was chosen on validation rows of other splits of the same
molecules, some of which are in the test rows here. Everything is written below `keras_mtl_runs/`.
"""

import csv
import gzip
import time

import comparison  # the file next to this one
import keras
import numpy as np
from keras import layers
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import keras_mtl

ASSAYS = (
    *("NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma"),
    *("SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53"),
)
LABELS = {"0": 0.0, "1": 1.0, "": np.nan}  # NaN is a missing label, in training as in metrics
FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
COMPONENTS = 400
EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATE = 4e-3
PENALTIES = (1.0, 10.0, 100.0)  # C of the logistic regressions
LINEAR, MULTI = "n-gram linear", "multi-task"
METHODS = {
    MULTI: {},
    "uncertainty": {"loss_weighting": "uncertainty"},
    "pcgrad": {"gradient_balancing": keras_mtl.balancing.PCGrad(scope="features")},
}
MEAN = comparison.Measure("mean", "mean test AUC (%)")
LOWEST = comparison.Measure("lowest", "lowest AUC of an assay (%)")


def read_label(row, assay, place):
    """Returns one label of a row as a number."""
    text = row[assay]
    if text not in LABELS:
        raise ValueError(f"{place}: {assay} must be 0, 1 or empty, received {text!r}.")
    return LABELS[text]


def read(path):
    """Returns the SMILES of each molecule, and by assay a column of labels."""
    opened = gzip.open if str(path).endswith(".gz") else open
    smiles, labels = [], []
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = sorted({"smiles", *ASSAYS} - set(rows.fieldnames or ()))
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}, has {rows.fieldnames}.")
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if not row["smiles"]:
                raise ValueError(f"{place}: there is no SMILES.")
            smiles.append(row["smiles"])
            labels.append([read_label(row, assay, place) for assay in ASSAYS])
    columns = np.array(labels, "float32").reshape(-1, len(ASSAYS), 1)
    return np.array(smiles), {assay: columns[:, k] for k, assay in enumerate(ASSAYS)}


def check(labels, rows):
    """Raises where a split has no molecule of either answer: it could not be measured there."""
    for split, chosen in rows.items():
        for assay, column in labels.items():
            if not {0.0, 1.0} <= set(column[chosen, 0]):
                raise ValueError(f"The {split} rows must hold a 0 and a 1 of {assay}.")


def count_ngrams(smiles, rows):
    """Returns weighted counts of 1 to 5 characters in a row; only training rows choose them."""
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 5), lowercase=False, min_df=2, sublinear_tf=True
    )
    vectorizer.fit(smiles[rows["train"]])
    return {split: vectorizer.transform(smiles[chosen]) for split, chosen in rows.items()}


def compress(ngrams, components):
    """Projects the counts to their principal directions, which a dense layer takes fast."""
    projection = TruncatedSVD(components, random_state=0).fit(ngrams["train"])
    dense = {split: projection.transform(counts) for split, counts in ngrams.items()}
    return {split: (x / dense["train"].std()).astype("float32") for split, x in dense.items()}


def make_model(tasks, components):
    """Builds the network for some of the tasks: two wide layers that they share, a head each."""
    inputs = keras.Input((components,), name="ngrams")
    stages = [layers.Dropout(0.2)]
    for _ in range(2):
        stages += [layers.Dense(512, activation="relu"), layers.Dropout(0.5)]
    return keras_mtl.architectures.hard_sharing(inputs, keras.Sequential(stages), tasks)


def area(predictions, column):
    """Returns the area under the ROC curve in percent, over the molecules that have a label."""
    known = ~np.isnan(column[:, 0])
    return 100 * float(roc_auc_score(column[known, 0], predictions[known, 0]))


def summarise(areas, minutes):
    """Returns what a row of the table holds, and the area of each assay."""
    values = [areas[assay] for assay in ASSAYS]
    mean = float(np.mean(values))
    return {"mean": mean, "lowest": min(values), comparison.MINUTES: minutes, **areas}


def train(features, labels, assays, epochs, seed, title, **balancing):
    """Trains one model for some assays; returns its areas on the test rows and the minutes."""
    keras.utils.set_random_seed(seed)
    tasks = {assay: keras_mtl.heads.BinaryClassification() for assay in assays}
    model = make_model(tasks, features["train"].shape[1])
    # A fixed schedule, chosen on validation rows of other splits.
    steps = epochs * int(np.ceil(len(features["train"]) / BATCH_SIZE))
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), **balancing)
    known = {split: {assay: labels[split][assay] for assay in assays} for split in labels}
    _, minutes = comparison.fit(
        model,
        features["train"],
        known["train"],
        title=f"{title}: {', '.join(assays)}",
        validation_data=(features["validation"], known["validation"]),
        batch_size=BATCH_SIZE,
        epochs=epochs,
    )
    found = model.predict(features["test"], batch_size=1024, verbose=0)
    return {assay: area(found[assay], known["test"][assay]) for assay in assays}, minutes


def fit_linear(ngrams, labels):
    """Fits a logistic regression an assay; validation rows choose one penalty for all."""
    start = time.perf_counter()
    best = 0.0
    for penalty in PENALTIES:
        found = {"validation": {}, "test": {}}
        for assay in ASSAYS:
            column = labels["train"][assay][:, 0]
            known = ~np.isnan(column)
            line = LogisticRegression(C=penalty, solver="liblinear")
            line.fit(ngrams["train"][known], column[known])
            for split, areas in found.items():
                scores = line.decision_function(ngrams[split])[:, None]
                areas[assay] = area(scores, labels[split][assay])
        if (mean := np.mean(list(found["validation"].values()))) > best:
            best, chosen = mean, found["test"]
    return chosen, (time.perf_counter() - start) / 60


def run_seed(smiles, all_labels, options, seed):
    """Trains every model on one split of the molecules; returns what they reach on test rows."""
    # 160 molecules stand in two to seven rows: all rows of a molecule come into one split.
    rows = keras_mtl.data.split_by_group(smiles, FRACTIONS, seed=seed)
    if options.quick:
        rows["train"] = rows["train"][::4]
    check(all_labels, rows)
    labels = {
        split: {assay: column[chosen] for assay, column in all_labels.items()}
        for split, chosen in rows.items()
    }
    ngrams = count_ngrams(smiles, rows)
    features = compress(ngrams, 32 if options.quick else COMPONENTS)
    single, spent = {}, 0.0
    for assay in ASSAYS:
        given = (features, labels, [assay], options.epochs, seed, comparison.SINGLE)
        areas, minutes = train(*given)
        single.update(areas)
        spent += minutes
    results = {comparison.SINGLE: summarise(single, spent)}
    results[LINEAR] = summarise(*fit_linear(ngrams, labels))
    for method, balancing in METHODS.items():
        given = (features, labels, ASSAYS, options.epochs, seed, method)
        results[method] = summarise(*train(*given, **balancing))
    return results


def draw_gains(axes, rows, labels):
    """Draws what sharing does to each assay, against how many molecules are active in it."""
    active = [int(np.nansum(labels[assay])) for assay in ASSAYS]
    gains = np.array([rows[MULTI][a] - rows[comparison.SINGLE][a] for a in ASSAYS])
    axes.axhline(0, color="0.6", linewidth=1)
    axes.plot(active, gains, "o", color="0.8", markersize=4)
    axes.plot(active, gains.mean(1), "o", color=comparison.COLOURS[0])
    axes.set(xlabel="active molecules", title=f"AUC, {MULTI} less {comparison.SINGLE}\nby assay")
    axes.title.set_fontsize(10)


def main(arguments=None):
    """Trains, compares and draws; returns the rows, the table and the folder of the results."""
    options = comparison.parse(
        __doc__.splitlines()[0], arguments, data="Tox21 as csv or csv.gz", epochs=EPOCHS
    )
    smiles, labels = read(options.data)
    rows, folder = comparison.repeat(
        "assays", lambda seed: run_seed(smiles, labels, options, seed), options.seeds
    )

    def picture(axes):
        draw_gains(axes, rows, labels)

    return comparison.report("assays", rows, [MEAN, LOWEST], folder, [picture])


if __name__ == "__main__":
    main()
