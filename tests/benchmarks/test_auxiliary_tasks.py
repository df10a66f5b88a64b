"""The study of auxiliary tasks is paired, hides labels, and chooses by validation alone."""

import importlib
import pathlib

import numpy as np
import pytest

import keras_mtl

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
METHODS = ("none", "fixed", "annealed", "uncertainty")
SENTENCES = {
    "PlayMusic": ("play something by {} today", "O O O B-artist O"),
    "RateBook": ("give the novel {} {} stars", "O O O B-book B-stars O"),
    "GetWeather": ("weather in new {}", "O O B-city I-city"),
}


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("auxiliary_tasks")


@pytest.fixture(scope="module")
def recipes(study):
    return study.recipes


@pytest.fixture(scope="module")
def snips(tmp_path_factory):
    """A folder of SNIPS' form: three intents in turn."""
    folder = tmp_path_factory.mktemp("snips")
    for split, rows in {"train": 120, "valid": 30, "test": 30}.items():
        chosen = [list(SENTENCES)[row % 3] for row in range(rows)]
        words = [
            SENTENCES[intent][0].format(f"w{row}", row % 5) for row, intent in enumerate(chosen)
        ]
        (folder / split).mkdir()
        (folder / split / "seq.in").write_text("".join(f"{line} \n" for line in words))
        tags = "".join(f"{SENTENCES[intent][1]} \n" for intent in chosen)
        (folder / split / "seq.out").write_text(tags)
        (folder / split / "label").write_text("".join(f"{intent}\n" for intent in chosen))
    return str(folder)


def cells(study, labels=20, seed=3):
    """Trainings that differ in the method alone."""
    pair = ("digit", "parity")
    return [study.make_cell("digits", pair, method, labels, seed) for method in METHODS]


def test_methods_share_splits_labelled_rows_and_batches(study):
    first, *others = [study.training.prepare(cell, None, epochs=2) for cell in cells(study)]
    for other in others:
        np.testing.assert_array_equal(first.labelled, other.labelled)
        np.testing.assert_array_equal(first.batches, other.batches)
        for split, rows in first.splits.items():
            np.testing.assert_array_equal(rows.inputs, other.splits[split].inputs)
    another_seed = study.training.prepare(cells(study, seed=4)[0], None, epochs=2)
    assert (first.splits["test"].inputs != another_seed.splits["test"].inputs).any()


def test_methods_start_from_the_same_trunk_and_main_head(study):
    models = [study.training.make_model(cell) for cell in cells(study)]
    # Two convolutions, a dense layer and the main head come first, a kernel and a bias each.
    alone, *others = [model.trainable_weights for model in models]
    assert len(alone) == 8
    for found in others:
        assert len(found) >= 10
        for expected, value in zip(alone, found[:8], strict=True):
            np.testing.assert_array_equal(expected, value)


def test_a_method_may_have_options(study):
    weighting = study.training.weighting_of("auxilearn:learning_rate=0.1,update_every=5")
    assert isinstance(weighting, keras_mtl.weighting.AuxiLearn)
    assert (weighting.learning_rate, weighting.update_every) == (0.1, 5)
    assert isinstance(study.training.weighting_of("annealed"), keras_mtl.weighting.Fixed)


def test_few_labels_are_few_balanced_and_nested(study):
    small, large = (study.training.prepare(cells(study, labels)[0], None, 1) for labels in (25, 60))
    rows = small.splits["train"]
    hidden = rows.hidden("digit", small.labelled).labels
    assert np.sum(hidden["digit"] != -1) == 25
    np.testing.assert_array_equal(hidden["parity"], rows.labels["parity"])
    np.testing.assert_array_equal(
        hidden["digit"][small.labelled], rows.labels["digit"][small.labelled]
    )
    assert sorted(np.bincount(hidden["digit"][small.labelled])) == [2] * 5 + [3] * 5
    assert set(small.labelled) < set(large.labelled)


def test_splits_of_the_digits_share_no_row(recipes):
    splits = recipes.load_digits(None, seed=0)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "test": 359,
        "validation": 359,
        "train": 1079,
    }
    labels = np.concatenate([rows.labels["digit"] for rows in splits.values()])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_batches_hold_labelled_rows_in_both_halves_and_all_rows_once(recipes):
    labelled = np.arange(100, 120)
    batches = recipes.draw_batches(labelled, 480, 3, np.random.default_rng(0))
    assert batches.shape == (30, 64)
    shown = batches[:, : recipes.LABELLED]
    assert np.isin(shown, labelled).all()
    assert np.ptp(np.unique_counts(shown).counts) <= 1  # each as often as the others
    assert (np.isin(batches[:, ::2], labelled).sum(axis=1) >= recipes.LABELLED // 2).all()
    for epoch in np.split(batches[:, recipes.LABELLED :], 3):
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(480))


def test_slots_begin_where_conlleval_lets_them(recipes):
    # B-1 I-1 I-1 O B-1 B-1 I-2 I-2: by type, and by B-.
    tags = [1, 2, 2, 0, 1, 1, 4, 4]
    assert recipes.slot_spans(tags) == {(0, 3, 1), (4, 5, 1), (5, 6, 1), (6, 8, 2)}
    assert recipes.slot_spans([0, 0]) == set()


def test_slot_f1_counts_whole_slots_and_no_padding(recipes):
    tags = np.array([[1, 2, 0, 3], [3, -1, -1, -1]])
    predicted = np.array([[1, 2, 0, 0], [3, 3, 3, 3]])
    # Three slots expected, two found, both of them right.
    assert recipes.slot_f1(tags, predicted) == pytest.approx(100 * 2 * 2 / (3 + 2))
    assert recipes.slot_f1(tags, np.array([[1, 0, 0, 0], [0] * 4])) == 0  # half a slot is none


def test_sentences_become_words_tags_and_intents(recipes, snips):
    rows = recipes.load_snips(snips, seed=0)
    train, test = rows["train"], rows["test"]
    assert [len(split) for split in rows.values()] == [120, 30, 30]
    assert set(train.labels["intent"].tolist()) == {0, 1, 2}
    weather = test.labels["slots"][2]
    city = 2 * sorted(["artist", "book", "stars", "city"]).index("city") + 1
    assert weather[:5].tolist() == [0, 0, city, city + 1, -1]
    np.testing.assert_array_equal(test.inputs["present"], test.labels["slots"] >= 0)


def test_interval_is_that_of_students_t(study):
    # Mean 3, deviation 1.5811, t of 4 degrees of freedom 2.7764: half the width is 1.9632.
    mean, half = study.report.interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3
    assert half == pytest.approx(2.7764 * 1.58114 / 5**0.5, rel=1e-4)
    assert study.report.show_interval(np.arange(1.0, 6.0)) == "**+3.0 [+1.0, +5.0]**"
    assert study.report.show_interval(np.arange(0.0, 5.0)) == "**+2.0 [+0.0, +4.0]**"
    assert study.report.show_interval(np.arange(-1.0, 4.0)) == "+1.0 [-1.0, +3.0]"


def test_difference_is_that_of_the_same_seed(study):
    scores = {"none": np.array([50.0, 70.0]), "fixed": np.array([52.0, 73.0])}
    line = study.Line("digits", ("digit", "parity"), 20, scores)
    np.testing.assert_array_equal(line.gains("fixed"), [2, 3])
    first, second = study.report.make_tables([line])
    assert "| digit | parity | 20 | 60.00 ± 14.14 | 62.50 ± 14.85 |" in first
    assert "| digit | parity | 20 | +2.5 [-3.9, +8.9] |" in second


def test_best_epoch_on_validation_is_the_one_that_is_tested(study, monkeypatch):
    scores, calls = iter([50.0, 70.0, 60.0, 65.0]), []

    def measure(model, task, rows):
        calls.append((rows.checksum(), model.get_weights()))
        return next(scores)

    monkeypatch.setattr(study.training, "measure", measure)
    cell = cells(study)[2]
    result = study.training.train(cell, None, epochs=3)
    splits = study.training.prepare(cell, None, epochs=3).splits
    checked = [
        splits[name].checksum() for name in ("validation", "validation", "validation", "test")
    ]
    assert [rows for rows, _ in calls] == checked
    assert (result["validation"], result["score"]) == ([50, 70, 60], 65)
    assert any((a != b).any() for a, b in zip(calls[1][1], calls[2][1], strict=True))
    for second_epoch, tested in zip(calls[1][1], calls[3][1], strict=True):
        np.testing.assert_array_equal(second_epoch, tested)
    assert result["weights"] == {"digit": 1, "parity": 0}  # annealed: 1, 0.5, 0


@pytest.fixture
def run(study, tmp_path, monkeypatch):
    """Runs the study in a folder of its own; also returns the cells that were trained."""
    monkeypatch.chdir(tmp_path)
    train, trained = study.training.train, []

    def spy(cell, path, epochs):
        trained.append(cell)
        return train(cell, path, epochs)

    def run(*arguments):
        trained.clear()
        monkeypatch.setattr(study.training, "train", spy)
        return study.main([*arguments, "--quick"]), list(trained)

    return run


def test_quick_run_writes_a_table_and_is_not_repeated(run, capsys):
    few = ["--study", "digits", "--seeds", "1", "--methods", "fixed"]
    outcome, trained = run(*few)
    assert [cell.tasks for cell in trained] == [
        ("digit",),  # one for all three scenarios
        ("digit", "parity"),
        ("digit", "pixels"),
        ("digit", "noise"),
    ]
    again, missing = run(*few)
    assert missing == []
    assert again["tables"] == outcome["tables"]
    assert outcome["tables"][1] in capsys.readouterr().out
    assert (outcome["folder"] / "table.md").read_text() == "\n\n".join(outcome["tables"]) + "\n"
    assert (outcome["folder"] / "auxiliary_tasks.png").stat().st_size > 10_000
    assert len((outcome["folder"] / "table.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("pair", [("intent", "slots"), ("slots", "intent")])
def test_either_task_of_the_sentences_can_be_the_main_one(study, snips, pair):
    assert pair in study.recipes.RECIPES["snips"].scenarios
    cell = study.make_cell("snips", pair, "fixed", 6, seed=0)
    rows = study.training.prepare(cell, snips, epochs=1).splits["test"]
    assert 0 <= study.training.measure(study.training.make_model(cell), pair[0], rows) <= 100
    labels = rows.labels[pair[0]]
    classes = np.eye(79)[np.maximum(labels, 0)]
    assert study.recipes.score(pair[0], rows, classes) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "uncertanty"], "Did you mean 'uncertainty'"),
        (["--labels", "50", "5000"], r"must be from 1 to 1079, received \[50, 5000\]"),
        (["--labels", "0"], "must be from 1"),
    ],
)
def test_wrong_method_or_amount_is_refused_before_anything_is_trained(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        run("--study", "digits", "--methods", "fixed", *arguments)
    assert not pathlib.Path("keras_mtl_runs").exists()


def test_sentences_need_their_folder(study, capsys):
    with pytest.raises(SystemExit):
        study.main(["--study", "snips"])
    assert "needs `--data`" in capsys.readouterr().err
