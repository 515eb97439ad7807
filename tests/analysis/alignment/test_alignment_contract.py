"""The contract of all methods on features: shapes, types, errors of one sentence."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from jaxtl.analysis import alignment
from jaxtl.analysis.alignment import (
    CORAL,
    GFK,
    JDA,
    KLIEP,
    KMM,
    TCA,
    OTMapping,
    SubspaceAlignment,
    TrAdaBoost,
    nearest_neighbor,
    nearest_neighbor_accuracy,
)
from jaxtl.core.errors import UserError

N, M, D = 14, 11, 6
# Method, width of the mapped rows.
MAPPINGS = [
    (CORAL(), D),
    (SubspaceAlignment(3), 3),
    (GFK(2), 4),
    (TCA(3), 3),
    (TCA(3, kernel="rbf"), 3),
    (TCA(3, kernel="primal"), 3),
    (JDA(3, iterations=2), 3),
    (JDA(3, kernel="rbf", iterations=2, normalize=True), 3),
    (OTMapping(), D),
    (OTMapping(entropy=0.1, scale="max"), D),
    (OTMapping(entropy=0.1, classes=0.1, scale="median"), D),
]
WEIGHTS = [KMM(), KLIEP(), KLIEP(bandwidth=1.0)]


def title(value):
    return repr(value) if hasattr(value, "fit") else None


def domains(seed=0, n=N, m=M, d=D, dtype=np.float32):
    rng = np.random.default_rng(seed)
    ys, yt = rng.integers(0, 2, n), rng.integers(0, 2, m)
    ys[:2], yt[:2] = (0, 1), (0, 1)
    xs = rng.normal(size=(n, d)) + ys[:, None]
    xt = rng.normal(size=(m, d)) + yt[:, None] + 0.5
    return xs.astype(dtype), ys, xt.astype(dtype), yt


@pytest.mark.parametrize(("method", "width"), MAPPINGS, ids=title)
def test_a_map_returns_finite_rows_and_changes_no_input(method, width):
    xs, ys, xt, _ = domains()
    originals = xs.copy(), xt.copy()
    fitted = clone(method)
    zs, zt = fitted.fit_transform(xs, xt, ys)
    assert (zs.shape, zt.shape) == ((N, width), (M, width))
    assert zs.dtype == zt.dtype == np.float64
    assert np.isfinite(zs).all()
    assert np.isfinite(zt).all()
    assert fitted.fit(xs, xt, ys) is fitted
    np.testing.assert_array_equal(fitted.transform(xs, "source"), zs)
    # New rows are mapped alike, whatever rows come with them.
    np.testing.assert_allclose(fitted.transform(xt[:2], "target"), zt[:2], atol=1e-9)
    np.testing.assert_allclose(fitted.transform(xs[3:4], "source"), zs[3:4], atol=1e-9)
    np.testing.assert_array_equal((xs, xt)[0], originals[0])
    np.testing.assert_array_equal((xs, xt)[1], originals[1])
    # A second fit, of lists, gives the same.
    again, _ = clone(method).fit_transform(xs.tolist(), xt.tolist(), ys.tolist())
    np.testing.assert_allclose(again, zs, atol=1e-9)


@pytest.mark.parametrize("method", WEIGHTS, ids=title)
def test_weights_fit_a_learner_and_repeat(method):
    xs, ys, xt, _ = domains()
    fitted = clone(method).fit(xs, xt)
    assert fitted.weights.shape == (N,)
    assert fitted.weights.dtype == np.float64
    assert (fitted.weights >= 0).all()
    assert fitted.weights.max() > fitted.weights.min()
    LogisticRegression().fit(xs, ys, sample_weight=fitted.weights)
    np.testing.assert_array_equal(clone(method).fit(xs, xt).weights, fitted.weights)


@pytest.mark.parametrize(
    "method", [m for m, _ in MAPPINGS] + WEIGHTS + [TrAdaBoost(rounds=2)], ids=title
)
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda xs, xt: (xs, xt[:, :-1]), "xs has 6 features and xt 5"),
        (lambda xs, xt: (xs[0], xt), r"xs has shape \(6,\); expected \(examples, feat"),
        (lambda xs, xt: (xs, xt[:0]), r"xt has shape \(0, 6\)"),
        (lambda xs, xt: (np.where(xs > 1, np.nan, xs), xt), "xs holds .* not finite"),
        (lambda xs, xt: (xs, np.full(xt.shape, "a")), "xt holds no numbers"),
    ],
)
def test_features_that_do_not_fit_raise_one_sentence(method, change, text):
    xs, ys, xt, yt = domains()
    xs, xt = change(xs, xt)
    name = type(method).__name__
    arguments = (xs, ys, xt, yt) if isinstance(method, TrAdaBoost) else (xs, xt, ys)
    with pytest.raises(UserError, match=f"^{name}: .*{text}") as raised:
        clone(method).fit(*arguments)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_wrong_calls_of_fit_and_transform_raise():
    xs, ys, xt, _ = domains()
    for method, _ in MAPPINGS:
        fitted = clone(method)
        with pytest.raises(UserError, match=r"call fit\(xs, xt\) before transform"):
            fitted.transform(xs, "source")
        fitted.fit(xs, xt, ys)
        with pytest.raises(UserError, match="did you mean 'source'"):
            fitted.transform(xs, "sourze")
        with pytest.raises(UserError, match="x has 5 features, and it was fitted on 6"):
            fitted.transform(xs[:, :5], "target")
    with pytest.raises(UserError, match="JDA: ys is missing"):
        JDA(2).fit(xs, xt)
    with pytest.raises(UserError, match=r"OTMapping: ys has shape \(13,\)"):
        OTMapping(0.1, 0.1).fit(xs, xt, ys[1:])


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (CORAL(ridge=-1.0), "CORAL: ridge=-1.0; expected a number of at least 0"),
        (CORAL(ridge="1"), "ridge='1'"),
        (SubspaceAlignment(0), "dimension=0; expected a whole number from 1 to 6"),
        (SubspaceAlignment(7), "dimension=7; .* from 1 to 6"),
        (SubspaceAlignment(2.0), "dimension=2.0"),
        (GFK(7), "GFK: dimension=7"),
        (TCA(7), "TCA: dimension=7; .* from 1 to 6, the rank"),
        (TCA(3, ridge=0.0), "TCA: ridge=0.0; expected a number above 0"),
        (TCA(3, kernel="rbv"), "TCA: kernel='rbv' is unknown; did you mean 'rbf'"),
        (TCA(3, kernel="rbf", bandwidth=0), "bandwidth=0; expected a number above 0"),
        (JDA(3, iterations=0), "JDA: iterations=0"),
        (JDA(3, marginal=-1.0), "JDA: marginal=-1.0"),
        (KMM(bandwidth=0.0), "KMM: bandwidth=0.0; expected a number above 0"),
        (KMM(bandwidth=float("nan")), "KMM: bandwidth=nan"),
        (KMM(top=0.0), "KMM: top=0.0; expected a number above 0"),
        (KMM(top=0.5, slack=0.1), "KMM: top=0.5 keeps the mean weight below"),
        (KLIEP(bandwidth=0), "KLIEP: bandwidth=0; expected a number above 0"),
        (KLIEP(bandwidth=1e-4), "KLIEP: bandwidth=0.0001 is so small"),
        (KLIEP(centers=0), "KLIEP: centers=0"),
        (OTMapping(entropy=-1), "OTMapping: entropy=-1"),
        (OTMapping(classes=1.0), "OTMapping: classes= penalizes a plan with entropy"),
        (OTMapping(metric="cosin"), "metric='cosin' is unknown; did you mean 'cosine'"),
        (OTMapping(scale="mean"), "OTMapping: scale='mean' is unknown"),
        (OTMapping(entropy=1, steps=0), "OTMapping: steps=0"),
    ],
    ids=lambda value: repr(value) if hasattr(value, "fit") else "",
)
def test_invalid_settings_raise(method, text):
    xs, ys, xt, _ = domains()
    with pytest.raises(UserError, match=text):
        method.fit(xs, xt, ys)


def test_one_row_and_constant_features_work_or_raise():
    xs, ys, xt, yt = domains(dtype=np.float64)
    single_row = np.ones((1, D))
    for method in (CORAL(), SubspaceAlignment(1), GFK(1)):
        with pytest.raises(UserError, match=r"xs has 1 row|all 1 rows of xs are the"):
            clone(method).fit(single_row, xt)
        with pytest.raises(UserError, match=r"xt has 1 row|all 1 rows of xt are the"):
            clone(method).fit(xs, single_row)
    with pytest.raises(UserError, match="all 5 rows of xs are the same"):
        SubspaceAlignment(1).fit(np.ones((5, D)), xt)
    with pytest.raises(UserError, match="ridge=0 leaves the source's covariance sing"):
        CORAL(0).fit(xs[:4], xt)
    with pytest.raises(UserError, match="takes the median distance, and all 2 rows"):
        KMM().fit(single_row, single_row)
    with pytest.raises(UserError, match="metric='cosine' has no value for rows of ze"):
        OTMapping(metric="cosine").fit(0 * single_row, xt)
    with pytest.raises(UserError, match="would divide by a cost of 0"):
        OTMapping(scale="max").fit(single_row, single_row)
    with pytest.raises(UserError, match="all 25 labels are 1"):
        TrAdaBoost().fit(xs, np.ones(N), xt, np.ones(M))
    # These take a single row of either domain; all take a constant feature.
    for method in (TCA(1), JDA(1), OTMapping(), KMM(), KLIEP(bandwidth=1.0)):
        clone(method).fit(xs[:1], xt, ys[:1])
        clone(method).fit(xs, xt[:1], ys)
    xs[:, 2] = xt[:, 2] = 3.0
    for method, _ in MAPPINGS:
        zs, zt = clone(method).fit_transform(xs, xt, ys)
        assert np.isfinite(zs).all()
        assert np.isfinite(zt).all()
    for method in WEIGHTS:
        assert np.isfinite(clone(method).fit(xs, xt).weights).all()
    assert set(TrAdaBoost(rounds=3).fit(xs, ys, xt, yt).predict(xt)) <= {0, 1}


def test_nearest_neighbor_agrees_with_scikit_learn():
    xs, ys, xt, yt = domains(1, 60, 50, dtype=np.float64)
    reference = KNeighborsClassifier(1).fit(xs, ys)
    np.testing.assert_array_equal(nearest_neighbor(xs, ys, xt), reference.predict(xt))
    assert nearest_neighbor_accuracy(xs, ys, xt, yt) == pytest.approx(
        reference.score(xt, yt)
    )
    with pytest.raises(UserError, match="nearest_neighbor: xs has 6 features and xt 3"):
        nearest_neighbor(xs, ys, xt[:, :3])
    with pytest.raises(UserError, match=r"nearest_neighbor: yt has shape \(49,\)"):
        nearest_neighbor_accuracy(xs, ys, xt, yt[1:])


def test_all_public_names_are_covered_by_the_contract():
    names = {type(m).__name__ for m, _ in MAPPINGS} | {
        type(m).__name__ for m in WEIGHTS
    }
    names |= {"TrAdaBoost", "nearest_neighbor", "nearest_neighbor_accuracy"}
    assert set(alignment.__all__) == names
