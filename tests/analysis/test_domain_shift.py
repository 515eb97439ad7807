"""Domain shift: closed forms, the exact test of scipy, plain loops; and on a run."""

import json
import math

import numpy as np
import pytest
from scipy import stats

import jaxtl as tl
from jaxtl.analysis import domain_shift, shift_measures
from jaxtl.cli import main
from jaxtl.core.errors import UserError


def _domains(seed=0, n=40, m=30, width=3, shift=0.0):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(n, width)), rng.normal(size=(m, width))
    target[:, 0] += shift
    return source, target


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 6.0])
def test_a_distance_is_that_of_the_best_classifier(shift):
    result = shift_measures.proxy_a_distance(*_domains(n=4000, m=2000, shift=shift))
    error = stats.norm.cdf(-shift / 2)  # Bayes' error of two unit Gaussians
    assert abs(result.error - error) < 0.02
    assert result.distance == pytest.approx(2 * (1 - 2 * result.error))


def test_a_distance_does_not_depend_on_the_sizes_of_domains():
    # A classifier that always answers "source" would be right in 19 of 20 cases.
    equal = shift_measures.proxy_a_distance(*_domains(n=1900, m=100))
    assert abs(equal.error - 0.5) < 0.1
    source, target = _domains(n=1900, m=100, shift=2.0)
    forward = shift_measures.proxy_a_distance(source, target)
    backward = shift_measures.proxy_a_distance(target, source)
    assert forward.error == pytest.approx(backward.error, abs=0.03)
    assert abs(forward.error - stats.norm.cdf(-1)) < 0.05


def test_a_distance_does_not_depend_on_the_features_scale():
    source, target = _domains(n=200, m=200, shift=1.0)
    scale = np.array([1e-4, 1.0, 1e5])
    original = shift_measures.proxy_a_distance(source, target)
    scaled = shift_measures.proxy_a_distance(source * scale, target * scale)
    assert original.error == pytest.approx(scaled.error, abs=0.01)


def _loop(source, target, bandwidth):
    """Unbiased MMD² by double loops."""

    def kernel(a, b):
        return math.exp(-sum((a - b) ** 2) / (2 * bandwidth**2))

    def within(x):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    across = [kernel(a, b) for a in source for b in target]
    return within(source) + within(target) - 2 * np.mean(across)


def test_mmd_agrees_with_a_double_loop():
    source, target = _domains(n=9, m=6, shift=1.0)
    for bandwidth in (0.5, 2.0):
        result = shift_measures.mmd_test(
            source, target, bandwidth=bandwidth, permutations=1
        )
        assert result.mmd == pytest.approx(_loop(source, target, bandwidth), rel=1e-9)
    both = np.concatenate([source, target])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(both) for b in both[:i]]
    result = shift_measures.mmd_test(source, target, permutations=1)
    assert result.bandwidth == pytest.approx(np.median(distances))
    assert result.mmd == pytest.approx(_loop(source, target, np.median(distances)))


def test_mmd_of_two_gaussians_has_a_closed_form():
    # E k = (σ² / (σ² + 2))^(d/2) · exp(−δ² / (2 (σ² + 2))) for unit Gaussians.
    source, target = _domains(n=1500, m=1500, width=2, shift=1.5)
    sigma = 1.2
    same = sigma**2 / (sigma**2 + 2)
    expected = 2 * same * (1 - math.exp(-(1.5**2) / (2 * (sigma**2 + 2))))
    result = shift_measures.mmd_test(source, target, bandwidth=sigma, permutations=1)
    assert result.mmd == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("shift", [0.3, 1.5])
def test_the_p_value_approaches_the_exact_one_of_scipy(shift):
    source, target = _domains(seed=3, n=5, m=4, shift=shift)
    bandwidth = 1.3

    both = np.concatenate([source, target])

    def statistic(first, second):  # of row numbers, which scipy permutes
        return _loop(both[first], both[second], bandwidth)

    exact = stats.permutation_test(
        (np.arange(5), np.arange(5, 9)),
        statistic,
        n_resamples=np.inf,
        alternative="greater",
    )
    result = shift_measures.mmd_test(
        source, target, bandwidth=bandwidth, permutations=4000
    )
    assert result.mmd == pytest.approx(exact.statistic)
    assert result.p_value == pytest.approx(exact.pvalue, abs=0.03)


def test_the_p_value_is_uniform_without_a_shift():
    values = [
        shift_measures.mmd_test(
            *_domains(seed, n=20, m=25), permutations=99, seed=seed
        ).p_value
        for seed in range(400)
    ]
    # Uniform on 1/100, …, 1.
    counts = np.histogram(values, np.linspace(0, 1, 11) + 1e-9)[0]
    assert stats.chisquare(counts).pvalue > 0.001
    assert np.mean(np.array(values) <= 0.05) < 0.1
    assert min(values) >= 0.01


def test_the_p_value_is_small_under_a_shift_and_never_zero():
    values = [
        shift_measures.mmd_test(*_domains(seed, shift=2.0), permutations=99, seed=seed)
        for seed in range(20)
    ]
    assert all(v.p_value == 0.01 for v in values)
    assert values[0].p_text == "≤ 0.01"


def test_equal_constant_features_show_no_shift():
    result = shift_measures.mmd_test(np.ones((5, 2)), np.ones((4, 2)), permutations=19)
    assert (result.mmd, result.p_value) == (pytest.approx(0.0), 1.0)
    assert result.p_text == "= 1"


def test_class_shifts_agree_with_loops():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(12, 3)) * 2, rng.normal(size=(9, 3)) + 1]
    y = [rng.integers(0, 2, 12), rng.integers(0, 2, 9)]
    shifts = shift_measures.class_shifts(x[0], y[0], x[1], y[1], ("cat", "dog"))
    squares, means = 0.0, {}
    for d in (0, 1):
        for c in (0, 1):
            rows = [row for row, label in zip(x[d], y[d]) if label == c]
            means[d, c] = np.mean(rows, axis=0)
            squares += sum(np.sum((row - means[d, c]) ** 2) for row in rows)
    unit = math.sqrt(squares / (12 + 9 - 4))
    for c, shift in enumerate(shifts):
        distance = np.linalg.norm(means[0, c] - means[1, c])
        assert shift.shift == pytest.approx(distance / unit)
        assert shift.name == ("cat", "dog")[c]
        counts = [int((labels == c).sum()) for labels in y]
        assert [shift.source, shift.target] == counts
        assert shift.chance == pytest.approx(math.sqrt(sum(1 / n for n in counts)))


def test_chance_is_the_expected_shift_of_equal_domains():
    squares = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(60, 4))
        y = np.zeros(30, int)
        [shift] = shift_measures.class_shifts(x[:30], y, x[30:], y, ("a",))
        squares.append((shift.shift / shift.chance) ** 2)
    assert np.mean(squares) == pytest.approx(1.0, abs=0.15)


def test_a_class_absent_from_a_domain_has_no_shift():
    x = np.random.default_rng(0).normal(size=(6, 2))
    y = np.array([0, 0, 0, 1, 1, 1])
    lacking = np.array([0, 0, 0, -1, -1, -1])
    shared, absent = shift_measures.class_shifts(x, y, x + 1, lacking, ("a", "b"))
    assert shared.shift > 0
    assert math.isnan(absent.shift)
    assert math.isnan(absent.chance)


def test_invalid_arrays_raise():
    x = np.zeros((8, 2))
    for call, message in (
        (lambda: shift_measures.mmd_test(x, x, bandwidth=0.0), "expected σ > 0"),
        (lambda: shift_measures.mmd_test(x, x[:1]), "needs at least 2"),
        (lambda: shift_measures.mmd_test(x, x, permutations=0), "expected 1 or more"),
        (
            lambda: shift_measures.mmd_test(x, np.zeros((8, 3))),
            "of one stage of one model",
        ),
        (lambda: shift_measures.mmd_test(x[0], x), r"expected \(examples, width\)"),
        (lambda: shift_measures.mmd_test(x * np.nan, x), "NaN or infinity"),
        (lambda: shift_measures.proxy_a_distance(x, x[:3]), "at least 5"),
        (lambda: shift_measures.proxy_a_distance(x, x, folds=1), "expected 2 or more"),
        (
            lambda: shift_measures.class_shifts(x, np.zeros(3), x, np.zeros(8), ("a",)),
            "one each",
        ),
    ):
        with pytest.raises(UserError, match=message):
            call()


FILE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Arrays({target!r}, labels=0, val=20, test=20),
        streams={{"source": tl.data.Arrays({source!r}, val=0, test=0)}},
        terms={{
            "task": tl.losses.CrossEntropy(stream="source"),
            "align": tl.domain.DeepCORAL(weight=1.0),
        }},
        optim=tl.optim.AdamW(lr=1e-2), steps=30, batch=32,
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run in `run`, whose target is shifted."""
    place = tmp_path_factory.mktemp("diagnosis")
    rng = np.random.default_rng(0)
    for name, moved in (("source", 0.0), ("target", 2.0)):
        y = rng.integers(0, 3, 160)
        x = 2 * np.eye(3)[y] + rng.normal(0, 0.5, (160, 3)) + moved * (y == 1)[:, None]
        names = np.array(["ant", "bee", "cow"])
        np.savez(place / f"{name}.npz", x=x.astype(np.float32), y=y, class_names=names)
    text = FILE.format(**{n: str(place / f"{n}.npz") for n in ("source", "target")})
    (place / "file.py").write_text(text)
    arguments = ["run", str(place / "file.py"), "--out", str(place / "run")]
    assert main.main(arguments) == 0
    return place


def _mlp_features(run, weights, name, count):
    params, _ = weights
    dense = {k: np.asarray(v, np.float64) for k, v in params["layer1"]["dense"].items()}
    data = run.parts.datasets[name]
    rows = data.rows["unlabelled" if name == "target" else "train"]
    assert len(rows) == count
    return np.maximum(data.x[rows] @ dense["kernel"] + dense["bias"], 0)


def test_before_and_after_are_the_initial_and_the_best_weights(place):
    diagnosis = tl.diagnose(place / "run", permutations=19)
    run = domain_shift.open_run(place / "run")
    assert (diagnosis.source, diagnosis.target, diagnosis.stage) == (
        "source",
        "unlabelled",
        "layer1",
    )
    fresh = tl.setup(run.exp)
    initial = fresh.weights("current")
    for side, weights in (
        (diagnosis.before, initial),
        (diagnosis.after, run.weights("best")),
    ):
        source = _mlp_features(run, weights, "source", 160)
        target = _mlp_features(run, weights, "target", 120)
        np.testing.assert_allclose(side.source, source, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(side.target, target, rtol=1e-4, atol=1e-4)
        assert side.distance == shift_measures.proxy_a_distance(
            side.source, side.target
        )
    assert (diagnosis.before.source != diagnosis.after.source).any()
    # The class that was shifted has the largest shift.
    shifts = {shift.name: shift.shift for shift in diagnosis.before.classes}
    assert max(shifts, key=shifts.get) == "bee"
    assert diagnosis.before.discrepancy.p_value == 0.05


def test_examples_are_drawn_where_there_are_more(place):
    diagnosis = tl.diagnose(place / "run", examples=50, permutations=5)
    assert diagnosis.after.source.shape == (50, 8)
    assert diagnosis.after.target.shape == (50, 8)
    assert len(diagnosis.target_labels) == 50


def test_the_command_prints_tables_and_writes_files(place, capsys):
    arguments = ["diagnose", str(place / "run"), "--permutations", "19"]
    assert main.main([*arguments, "--examples", "60"]) == 0
    text = capsys.readouterr().out
    for word in ("proxy A-distance", "p-value", "bee", "not to choose by"):
        assert word in text
    folder = place / "run" / "diagnosis"
    stored = json.loads((folder / "diagnosis.json").read_text())
    assert stored["before"]["examples"] == {"source": 60, "target": 60}
    assert {c["name"] for c in stored["after"]["classes"]} == {"ant", "bee", "cow"}
    for name in ("features.png", "classes.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_invalid_options_and_runs_are_reported(place, tmp_path, capsys, digits):
    for arguments, text in (
        (["--source", "sourc"], "did you mean 'source'"),
        (["--target", "source"], "name two domains"),
        (["--target", "target"], "has no train rows"),
        (["--stage", "layer"], "did you mean 'layer1'"),
        (["--examples", "3"], "expected 10 or more"),
    ):
        assert main.main(["diagnose", str(place / "run"), *arguments]) == 1
        assert text in capsys.readouterr().err
    assert main.main(["diagnose", str(tmp_path / "none")]) == 1
    assert "is no directory of a run" in capsys.readouterr().err
    with pytest.raises(UserError, match="one domain alone"):
        tl.diagnose(tl.setup(digits()))
