"""CORAL, SA, GFK, TCA and JDA against scipy, scikit-learn and the papers' own forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise
from sklearn.neighbors import KNeighborsClassifier

from jaxtl.analysis.alignment import (
    CORAL,
    GFK,
    JDA,
    TCA,
    SubspaceAlignment,
    coral,
    gfk,
    jda,
    subspace,
    tca,
)


def domains(seed, n=30, m=25, d=5):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    ys = np.arange(n) % 3
    xs = rng.normal(size=(n, d)) + 2 * np.eye(d)[ys]
    xt = rng.normal(size=(m, d)) @ mix + 1
    return xs, ys, xt


def basis(rng, d, k):
    return linalg.orth(rng.normal(size=(d, k)))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_coral_gives_the_source_the_targets_covariance(seed):
    xs, _, xt = domains(seed)
    zs, zt = CORAL(ridge=0).fit_transform(xs, xt)
    np.testing.assert_allclose(
        np.cov(zs, rowvar=False), np.cov(xt, rowvar=False), rtol=1e-6, atol=1e-9
    )
    np.testing.assert_array_equal(zt, xt)
    cs, ct = (np.cov(x, rowvar=False) + np.eye(5) for x in (xs, xt))
    expected = linalg.inv(linalg.sqrtm(cs)) @ linalg.sqrtm(ct)
    np.testing.assert_allclose(coral.recoloring(cs, ct), expected, atol=1e-8)
    np.testing.assert_allclose(
        CORAL().fit(xs, xt).transform(xs, "source"), xs @ expected, atol=1e-7
    )


@given(seed=st.integers(0, 10**6), k=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_subspace_alignment_solves_least_squares(seed, k):
    rng = np.random.default_rng(seed)
    ps, pt = basis(rng, 6, k), basis(rng, 6, k)
    expected = linalg.lstsq(ps, pt)[0]
    np.testing.assert_allclose(subspace.alignment(ps, pt), expected, atol=1e-10)


def test_subspace_alignment_agrees_with_two_pcas_of_scikit_learn():
    xs, _, xt = domains(0)
    zs, zt = SubspaceAlignment(3).fit_transform(xs, xt)
    source, target = PCA(3).fit(xs), PCA(3).fit(xt)
    np.testing.assert_allclose(np.abs(zt), np.abs(target.transform(xt)), atol=1e-9)
    # Signs of axes cancel in P_S P_Sᵀ; those of the target's axes are in both.
    aligned = source.inverse_transform(source.transform(xs)) - xs.mean(0)
    np.testing.assert_allclose(
        zs @ zt.T, aligned @ target.components_.T @ target.transform(xt).T, atol=1e-9
    )


def geodesic(ps, pt):
    """Geodesic Φ(t), by the Grassmann manifold's logarithm (Edelman et al., 1998)."""
    inner = ps.T @ pt
    u, tangents, vt = np.linalg.svd((pt - ps @ inner) @ np.linalg.inv(inner), False)
    angles = np.arctan(tangents)
    return lambda t: (ps @ vt.T * np.cos(t * angles) + u * np.sin(t * angles)) @ vt


@given(seed=st.integers(0, 10**6), k=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_the_geodesic_flow_kernel_is_an_integral_over_the_geodesic(seed, k):
    rng = np.random.default_rng(seed)
    ps, pt = basis(rng, 7, k), basis(rng, 7, k)
    flow = geodesic(ps, pt)
    np.testing.assert_allclose(flow(1) @ flow(1).T, pt @ pt.T, atol=1e-8)
    expected, _ = integrate.quad_vec(lambda t: flow(t) @ flow(t).T, 0, 1)
    angles, a, b = gfk.principal_angles(ps, pt)
    reference = linalg.subspace_angles(ps, pt)[::-1]
    np.testing.assert_allclose(angles, reference, atol=1e-7)
    factor = gfk.factor(angles, a, b)
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-8)


def test_the_geodesic_flow_kernel_has_closed_forms():
    # Between two orthogonal lines: ∫cos² = ½, ∫cos·sin of tπ/2 = 1/π.
    line, orthogonal = np.eye(2)[:, :1], np.eye(2)[:, 1:]
    factor = gfk.factor(*gfk.principal_angles(line, orthogonal))
    np.testing.assert_allclose(
        np.abs(factor @ factor.T), [[0.5, 1 / np.pi], [1 / np.pi, 0.5]], atol=1e-12
    )
    # Between a subspace and itself: the projection.
    ps = basis(np.random.default_rng(0), 5, 3)
    turned = ps @ linalg.orth(np.random.default_rng(1).normal(size=(3, 3)))
    factor = gfk.factor(*gfk.principal_angles(ps, turned))
    np.testing.assert_allclose(factor @ factor.T, ps @ ps.T, atol=1e-10)


def test_gfk_uses_each_domains_principal_subspace():
    xs, _, xt = domains(2)
    method = GFK(2)
    zs, zt = method.fit_transform(xs, xt)
    ps, pt = (PCA(2).fit(x).components_.T for x in (xs, xt))
    flow = geodesic(ps, pt)
    kernel, _ = integrate.quad_vec(lambda t: flow(t) @ flow(t).T, 0, 1)
    np.testing.assert_allclose(
        zs @ zt.T, (xs - xs.mean(0)) @ kernel @ (xt - xt.mean(0)).T, atol=1e-8
    )


def gram(kind, a, b, width):
    if kind == "linear":
        return a @ b.T
    return pairwise.rbf_kernel(a, b, gamma=1 / (2 * width**2))


def solutions(k, matrix, ridge, count):
    """Kw for the paper's (K M K + μI)⁻¹ K H K and its largest eigenvalues."""
    n = len(k)
    centering = np.eye(n) - 1 / n
    values, vectors = linalg.eig(
        np.linalg.solve(k @ matrix @ k + ridge * np.eye(n), k @ centering @ k)
    )
    order = np.argsort(-values.real)[:count]
    w = vectors[:, order].real
    return k @ (w / np.linalg.norm(w, axis=0))


@pytest.mark.parametrize("kind", ["linear", "rbf"])
def test_tca_solves_the_full_eigenproblem(kind):
    xs, _, xt = domains(3)
    method = TCA(3, ridge=0.5, kernel=kind, bandwidth=2.0)
    zs, zt = method.fit_transform(xs, xt)
    x = np.concatenate([xs, xt])
    k = gram(kind, x, x, 2.0)
    matrix = np.empty((55, 55))
    for i in range(55):
        for j in range(55):
            matrix[i, j] = (1 / 30 if i < 30 else -1 / 25) * (
                1 / 30 if j < 30 else -1 / 25
            )
    expected = solutions(k, matrix, 0.5, 3)
    mapped = np.concatenate([zs, zt])
    np.testing.assert_allclose(np.abs(mapped), np.abs(expected), rtol=1e-5, atol=1e-7)


def test_primal_tca_solves_the_eigenproblem_of_features():
    xs, _, xt = domains(4)
    mapped = np.concatenate(TCA(2, kernel="primal").fit_transform(xs, xt))
    x = np.concatenate([xs, xt])
    gap = xs.mean(0) - xt.mean(0)
    scatter = 55 * np.cov(x, rowvar=False, bias=True)
    values, w = linalg.eigh(scatter, np.outer(gap, gap) + np.eye(5))
    w = w[:, np.argsort(-values)[:2]]
    expected = x @ (w / np.linalg.norm(w, axis=0))
    np.testing.assert_allclose(np.abs(mapped), np.abs(expected), rtol=1e-8)


def test_a_smaller_ridge_of_tca_brings_the_means_closer():
    xs, _, xt = domains(5)
    gaps = []
    for ridge in (100.0, 1.0, 0.01):
        zs, zt = TCA(2, ridge=ridge).fit_transform(xs, xt)
        spread = np.concatenate([zs, zt]).std(0)
        gaps.append(np.linalg.norm((zs.mean(0) - zt.mean(0)) / spread))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05


@pytest.mark.parametrize("normalize", [False, True])
def test_jda_follows_the_algorithm_of_the_paper(normalize):
    xs, ys, xt = domains(6)
    x = np.concatenate([xs, xt])
    k, n, m = x @ x.T, 30, 25
    pseudo_labels = np.full(m, -1)
    for round_ in range(3):
        matrix = np.zeros((55, 55))
        for label in (None, 0, 1, 2):
            if label is not None and round_ == 0:
                continue
            source = np.arange(n) if label is None else np.flatnonzero(ys == label)
            target = (
                np.arange(m)
                if label is None
                else np.flatnonzero(pseudo_labels == label)
            )
            e = np.zeros(55)
            e[source] = 1 / len(source)
            if len(target):
                e[n + target] = -1 / len(target)
            matrix += np.outer(e, e) * (3 if label is None else 1)
        matrix /= np.linalg.norm(matrix)
        z = solutions(k, matrix, 0.1, 3)
        if normalize:
            z /= np.linalg.norm(z, axis=1, keepdims=True)
        pseudo_labels = KNeighborsClassifier(1).fit(z[:n], ys).predict(z[n:])
    method = JDA(3, ridge=0.1, iterations=3, normalize=normalize)
    zs, zt = method.fit_transform(xs, xt, ys)
    mapped = np.concatenate([zs, zt])
    np.testing.assert_allclose(np.abs(mapped), np.abs(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(method.labels_, pseudo_labels)


def test_one_iteration_of_jda_is_tca():
    xs, ys, xt = domains(7)
    gap = tca.contrast(30, 25)
    jda_rows, _ = JDA(2, ridge=1.0, iterations=1).fit_transform(xs, xt, ys)
    norm = gap @ gap  # M is divided by its norm in JDA alone
    tca_rows, _ = TCA(2, ridge=norm).fit_transform(xs, xt)
    np.testing.assert_allclose(np.abs(jda_rows), np.abs(tca_rows), rtol=1e-7)


def test_class_contrasts_give_the_gap_of_class_means():
    xs, ys, xt = domains(8)
    pseudo_labels = np.arange(25) % 2  # nobody is guessed to be 2
    gaps = jda.class_contrasts(ys, pseudo_labels).T @ np.concatenate([xs, xt])
    for label in (0, 1):
        gap = xs[ys == label].mean(0) - xt[pseudo_labels == label].mean(0)
        np.testing.assert_allclose(gaps[label], gap, atol=1e-12)
    np.testing.assert_allclose(gaps[2], xs[ys == 2].mean(0), atol=1e-12)
