"""Classical alignment against published programs, most of them not the authors'.

Those of jindongwang/transferlearning, adapt and POT are the ones that are run; the
authors of most methods published Matlab code or none. TrAdaBoost is left out: one of
the programs departs from its paper in the factor of source rows, the other in that of
target rows.
"""

import numpy as np
import stored_values

from jaxtl.analysis import geometry
from jaxtl.analysis.alignment import (
    CORAL,
    GFK,
    JDA,
    KLIEP,
    KMM,
    TCA,
    SubspaceAlignment,
    optimal_transport,
    tca,
)

VALUES = stored_values.load("alignment_values.json")


def _products(*domains):
    """The inner products of all rows, which no component's sign changes."""
    z = np.concatenate(domains)
    return z @ z.T


def _tca(xs, xt):
    xs, xt = geometry.unit(xs), geometry.unit(xt)
    # Theirs scales L = e eᵀ to norm 1, which is ‖e‖² times our λ, and rows of Z to 1.
    ridge = 0.5 * np.sum(tca.contrast(8, 6) ** 2)
    method = TCA(2, ridge, "rbf", bandwidth=np.sqrt(1 / 1.4))
    return _products(*(geometry.unit(z) for z in method.fit_transform(xs, xt)))


def _jda(xs, xt):
    ys = np.array([1, 2, 3, 1, 2, 3, 1, 2])
    xs = xs + 1.5 * np.eye(3)[ys - 1]
    xt = xt + 1.5 * np.eye(3)[[0, 1, 2, 0, 1, 2]] + 0.5
    method = JDA(2, 0.5, "linear", iterations=2, normalize=True)
    domains = method.fit_transform(geometry.unit(xs), geometry.unit(xt), ys)
    labels = np.pad(method.labels_, (0, 8))
    return np.concatenate([_products(*domains), labels[None]])


def _gfk(xs, xt):
    factor = GFK(2).fit(xs, xt).factor_
    return factor @ factor.T


def _cost(xs, xt):
    return ((xs[:, None] - xt[None] - 1) ** 2).sum(-1)


def _assert_equal(name, equation, tolerance):
    case = VALUES[name]
    value = equation(*stored_values.inputs(case))
    np.testing.assert_allclose(value, case["value"], rtol=0, atol=tolerance)


def test_maps_are_those_of_the_programs():
    _assert_equal("coral_map", lambda a, b: CORAL().fit_transform(a, b)[0], 1e-9)
    _assert_equal("gfk", _gfk, 1e-9)
    _assert_equal("jda", _jda, 1e-9)
    _assert_equal("tca", _tca, 1e-9)
    _assert_equal(
        "subspace_alignment",
        lambda a, b: _products(SubspaceAlignment(2).fit_transform(a, b)[0]),
        1e-9,
    )


def test_weights_are_those_of_the_programs():
    def kmm(xs, xt):
        return KMM(1.0, top=5.0, tolerance=1e-12).fit(xs, xt + 0.7).weights

    def kliep(xs, xt):
        method = KLIEP(1.0, steps=200_000, tolerance=1e-10)
        return method.fit(xs, 0.7 * xt + 0.5).weights

    _assert_equal("kmm", kmm, 1e-6)
    _assert_equal("kliep", kliep, 1e-4)


def test_plans_are_those_of_the_programs():
    ys = np.arange(8) % 3
    _assert_equal(
        "transport_exact", lambda *x: optimal_transport.exact(_cost(*x)), 1e-12
    )
    _assert_equal(
        "transport_sinkhorn",
        lambda *x: optimal_transport.sinkhorn(_cost(*x), 0.5, 100_000, 1e-14),
        1e-9,
    )
    # Theirs counts the first plan, without a penalty, among its ten rounds.
    _assert_equal(
        "transport_classes",
        lambda *x: optimal_transport.class_regularized(
            _cost(*x), ys, 1.0, 0.1, 9, 100_000
        ),
        1e-6,
    )


def test_every_stored_value_is_compared():
    compared = {"coral_map", "gfk", "jda", "kliep", "kmm", "subspace_alignment", "tca"}
    plans = {"transport_classes", "transport_exact", "transport_sinkhorn"}
    assert compared | plans == set(VALUES)
