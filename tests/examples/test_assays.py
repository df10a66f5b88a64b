"""The assays example: missing labels, one side for each molecule, and areas worked by hand."""

import csv
import gzip

import keras
import numpy as np
import pytest

FEW = ("NR-AR", "NR-ER", "SR-p53")
METHODS = ["single task", "n-gram linear", "multi-task", "uncertainty", "pcgrad"]


@pytest.fixture(scope="module")
def assays(example):
    return example("assays")


def molecule(rng):
    return "".join(rng.choice(list("CNOcn1=()"), rng.integers(4, 20)))


def write(path, assays, rows, columns=None):
    """Writes rows of a SMILES and twelve labels as the data set has them."""
    columns = columns or [*assays.ASSAYS, "mol_id", "smiles"]
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number, (smiles, labels) in enumerate(rows):
            row = dict(zip(assays.ASSAYS, labels, strict=True))
            row.update(smiles=smiles, mol_id=f"TOX{number}")
            writer.writerow([row[name] for name in columns])
    return path


@pytest.fixture(scope="module")
def molecules():
    """Random molecules, each with the labels that a sixth of the assays lack."""
    rng = np.random.default_rng(0)
    names = [molecule(rng) for _ in range(200)]
    names += names[:40]  # as in the data, some stand in two rows
    return [(name, rng.choice(["0", "1", ""], 12, p=[0.5, 0.35, 0.15])) for name in names]


@pytest.fixture(scope="module")
def result(assays, molecules, quick, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("tox21") / "tox21.csv.gz", assays, molecules)
    return quick("assays", "--data", path, ASSAYS=FEW)  # six models instead of fifteen


def test_table_has_a_row_a_method_and_a_difference_to_single_tasks(result):
    lines = result["table"].splitlines()
    assert lines[0] == (
        "| method | mean test AUC (%) | lowest AUC of an assay (%) | minutes a seed |"
    )
    differences = [f"{method}, less single task" for method in METHODS[1:]]
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == METHODS + differences


def test_mean_and_lowest_are_those_of_the_assays(result):
    for row in result["rows"].values():
        areas = np.array([row[assay] for assay in FEW])
        assert ((areas >= 0) & (areas <= 100)).all()
        np.testing.assert_allclose(row["mean"], areas.mean(0))
        np.testing.assert_allclose(row["lowest"], areas.min(0))


def test_table_and_figure_are_written(result):
    written = result["folder"]
    assert {path.name for path in written.iterdir()} == {"results.json", "table.md", "assays.png"}
    assert (written / "table.md").read_text() == result["table"] + "\n"


@pytest.mark.parametrize("name", ["few.csv", "few.csv.gz"])
def test_labels_are_0_1_or_missing(assays, tmp_path, name):
    rows = [("CCO", ["0", "1", ""] + ["0"] * 9), ("c1ccccc1", ["", "", "1"] + ["1"] * 9)]
    smiles, labels = assays.read(write(tmp_path / name, assays, rows))
    assert smiles.tolist() == ["CCO", "c1ccccc1"]
    first = np.array([labels[assay][:, 0] for assay in assays.ASSAYS[:3]])
    np.testing.assert_array_equal(first, [[0, np.nan], [1, np.nan], [np.nan, 1]])
    assert [column.shape for column in labels.values()] == [(2, 1)] * 12


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("CC", ["0"] * 12), ("CO", ["2"] + ["0"] * 11)], r"line 3: NR-AR must be .* '2'"),
        ([("CC", ["0"] * 11 + ["0.5"])], r"bad.csv, line 2: SR-p53 must be 0, 1 or empty"),
        ([("", ["0"] * 12)], r"line 2: there is no SMILES"),
    ],
)
def test_a_bad_row_is_named(assays, tmp_path, rows, message):
    path = write(tmp_path / "bad.csv", assays, rows)
    with pytest.raises(ValueError, match=message):
        assays.read(path)


def test_a_column_that_is_missing_is_named(assays, tmp_path):
    path = write(tmp_path / "bad.csv", assays, [], [*assays.ASSAYS[1:], "smiles"])
    with pytest.raises(ValueError, match=r"bad.csv lacks the columns \['NR-AR'\]"):
        assays.read(path)


def test_an_assay_that_a_split_cannot_measure_is_named(assays):
    labels = {"NR-AR": np.array([[0.0], [1.0], [np.nan], [1.0]])}
    assays.check(labels, {"train": np.array([0, 1])})
    with pytest.raises(ValueError, match="The test rows must hold a 0 and a 1 of NR-AR"):
        assays.check(labels, {"train": np.array([0, 1]), "test": np.array([2, 3])})


def test_both_rows_of_a_molecule_are_in_one_split(assays, molecules, monkeypatch, tmp_path):
    seen = {}

    def count_ngrams(smiles, rows):
        seen.update({split: set(smiles[chosen]) for split, chosen in rows.items()})
        raise StopIteration

    monkeypatch.setattr(assays, "count_ngrams", count_ngrams)
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "tox21.csv", assays, molecules)
    with pytest.raises(StopIteration):
        assays.main(["--data", str(path)])
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert set.union(*seen.values()) == {smiles for smiles, _ in molecules}


def test_features_come_from_training_rows_alone(assays):
    smiles = np.array(["CCO", "CCN", "CS", "BrBrBr", "BrBr"])
    rows = {"train": np.array([0, 1, 2]), "validation": np.array([3]), "test": np.array([4])}
    ngrams = assays.count_ngrams(smiles, rows)
    # C and CC stand in two or more training molecules, the others in one; nothing of bromine does.
    assert {split: counts.shape for split, counts in ngrams.items()} == {
        "train": (3, 2),
        "validation": (1, 2),
        "test": (1, 2),
    }
    assert ngrams["test"].nnz == 0
    features = assays.compress(ngrams, 1)
    np.testing.assert_array_equal(features["test"], [[0.0]])


def test_area_is_the_share_of_pairs_in_order_without_missing_labels(assays):
    column = np.array([[1.0], [np.nan], [0.0], [1.0], [0.0]])
    predictions = np.array([[0.9], [0.95], [0.5], [0.4], [0.1]])
    # Of four pairs of an active and an inactive molecule only (0.4, 0.5) stands the wrong way.
    assert assays.area(predictions, column) == 75.0


def test_validation_rows_choose_the_penalty_and_test_rows_are_reported(assays, monkeypatch):
    rng = np.random.default_rng(0)
    ngrams = {split: rng.normal(size=(60, 4)) for split in ("train", "validation", "test")}
    labels = {
        split: dict.fromkeys(assays.ASSAYS, (x[:, :1] > 0).astype("float32"))
        for split, x in ngrams.items()
    }
    labels["train"]["NR-AR"] = np.where(rng.random((60, 1)) < 0.3, np.nan, labels["train"]["NR-AR"])
    # Test rows are turned round, so that they would choose the strong penalty, C = 1e-6: the weak
    # one has all pairs in order on validation rows, and so none on test rows.
    ngrams["test"] = -ngrams["test"]
    monkeypatch.setattr(assays, "PENALTIES", (1e-6, 100.0))
    areas, minutes = assays.fit_linear(ngrams, labels)
    assert list(areas) == list(assays.ASSAYS)
    assert set(areas.values()) == {0.0}
    assert minutes > 0
    monkeypatch.setattr(assays, "PENALTIES", (1e-6,))
    assert min(assays.fit_linear(ngrams, labels)[0].values()) > 5  # what test rows would choose


def test_each_model_has_a_head_for_its_assays_and_one_trunk(assays):
    def parameters(names):
        keras.utils.set_random_seed(0)
        tasks = {name: assays.keras_mtl.heads.BinaryClassification() for name in names}
        return assays.make_model(tasks, 400).count_params()

    trunk, head = (400 + 1) * 512 + (512 + 1) * 512, 512 + 1
    assert parameters(["NR-AR"]) == trunk + head
    assert parameters(assays.ASSAYS) == trunk + 12 * head
