"""The comparison of architectures draws the data it says, and gives all the same parameters."""

import importlib
import pathlib

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
ROWS = {"train": 4000}


@pytest.fixture(scope="module")
def comparison():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("architectures")


@pytest.fixture(scope="module")
def problems(comparison):
    return comparison.architecture_problems


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
def test_directions_have_the_cosine_that_is_asked_for(problems, correlation):
    weights = problems.directions(correlation, np.random.default_rng(3))
    expected = [[1.0, correlation], [correlation, 1.0]]
    np.testing.assert_allclose(weights @ weights.T, expected, atol=1e-12)


def test_numbers_are_a_function_of_one_projection_but_for_the_noise(problems):
    (x, y) = problems.synthetic_numbers(0.5, ROWS)["train"]
    random = np.random.default_rng(0)  # as the benchmark draws
    z = problems.directions(0.5, random) @ x.T
    slopes, shifts = random.normal(size=(2, problems.SINES))
    clean = z + sum(np.sin(a * z + b) for a, b in zip(slopes, shifts, strict=True))
    noise = y - clean
    # 4 standard errors of a variance over 8000 draws; inputs are float32.
    np.testing.assert_allclose(noise.var(), 0.01, atol=0.01 * 4 * np.sqrt(2 / 8000))


def test_tasks_of_correlation_one_differ_by_noise_alone(problems):
    _, y = problems.synthetic_numbers(1.0, ROWS)["train"]
    # 4 standard errors of a variance over 4000 draws are 9 %.
    np.testing.assert_allclose((y[0] - y[1]).var(), 0.02, rtol=0.1)


def test_nobody_purchases_without_a_click(problems):
    _, y = problems.synthetic_numbers(0.9, ROWS)["train"]
    labels = problems.funnel_labels(y)
    assert np.all(labels["purchase"] <= labels["click"])
    assert np.isclose(labels["click"].mean(), 0.4, atol=1e-3)
    assert 0 < labels["purchase"].mean() < 0.4


@pytest.mark.parametrize("architecture", ["single task", "mmoe"])
def test_widths_give_the_parameters_of_hard_sharing(comparison, problems, architecture):
    problem = problems.synthetic(0.5, {"train": 8})
    shared = comparison.build(problem, "hard_sharing", tuple(problem.tasks), problem.width)
    rows = comparison.candidates(problem, "any", architecture)
    sizes = [
        comparison.size(comparison.build(problem, architecture, row.tasks, row.width))
        for row in rows
    ]
    # One unit of width more or less is up to 5 % of the parameters.
    assert sum(sizes) == pytest.approx(comparison.size(shared), rel=0.05)


def test_the_nearest_width_may_be_below_or_above(comparison):
    assert comparison.fitting_width(lambda width: width**2, 17) == 4
    assert comparison.fitting_width(lambda width: width**2, 24) == 5


def test_an_architecture_that_does_not_fit_is_left_out_with_the_reason(
    comparison, problems, capsys
):
    problem = problems.synthetic(0.5, {"train": 8})
    problem.tasks["first"] = object()
    assert not comparison.fits(problem, "mmoe")
    assert "mmoe is left out: " in capsys.readouterr().out


def test_a_quick_run_makes_the_table(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--quick", "--seeds", "1", "--pairs", "2", "--problems", "funnel"]
    arguments += ["--architectures", "mmoe"]
    table = comparison.main(arguments)["funnel"].splitlines()
    heads = ["| architecture | click | purchase | parameters | step | learning rate |"]
    assert table[:1] == heads
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| single task",
        "| hard_sharing",
        "| mmoe",
    ]


def test_an_unknown_problem_is_named(comparison, capsys):
    with pytest.raises(SystemExit):
        comparison.main(["--problems", "synthetic-2"])
    assert "no problem named ['synthetic-2']" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        comparison.main(["--problems", "multimnist"])
    assert "needs --data" in capsys.readouterr().err
