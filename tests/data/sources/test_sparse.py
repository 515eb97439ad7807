"""Sparse matrices: rows, labels and groups are those that scikit-learn reads."""

import itertools
import pickle

import jax
import numpy as np
import pytest
import scipy.sparse
from sklearn import datasets as sklearn_datasets

import jaxtl as tl
from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array, sparse_rows
from jaxtl.data.preparation import load_table
from jaxtl.export import predict, write_bundle

RNG = np.random.default_rng(0)
X = scipy.sparse.random_array((40, 30), density=0.1, rng=RNG, dtype=np.float32).tocsr()
Y = np.arange(40) % 3
ALL = np.arange(40)


def write(path, x=X, y=Y, **options):
    sklearn_datasets.dump_svmlight_file(x, y, str(path), **options)
    return str(path)


@pytest.mark.parametrize("zero_based", [True, False])
def test_files_are_read_as_scikit_learn_reads_them(tmp_path, zero_based):
    train = write(tmp_path / "a.svm", X[:30], Y[:30], zero_based=zero_based)
    test = write(tmp_path / "b.svm", X[30:], Y[30:], zero_based=zero_based)
    options = {"n_features": 30, "zero_based": zero_based}
    table = data.SVMLight(train, test_path=test, **options).read()
    assert lazy_array.is_lazy(table.x)
    np.testing.assert_array_equal(table.x[ALL], X.toarray())
    np.testing.assert_array_equal(table.y, Y)
    assert table.class_names == ("0", "1", "2")
    assert table.splits["test"].tolist() == [*range(30, 40)]
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(table.x))[3:5], X[3:5].toarray()
    )


def test_targets_groups_and_sets_of_labels(tmp_path):
    noise = RNG.normal(size=40)
    path = write(tmp_path / "a.svm", y=noise, query_id=ALL // 4)
    table = data.SVMLight(path, split_by="qid").read()
    np.testing.assert_allclose(table.y, noise)
    assert table.task == "regression"
    np.testing.assert_array_equal(table.groups, ALL // 4)
    sets = np.stack([Y == 0, Y != 1, ALL % 2 == 0], 1).astype(int)
    path = write(tmp_path / "b.svm", y=scipy.sparse.csr_array(sets), multilabel=True)
    table = data.SVMLight(path, task="multilabel").read()
    np.testing.assert_array_equal(table.y, sets)
    assert table.class_names == ("0", "1", "2")


def test_matrices_in_memory_and_files_of_scipy(tmp_path):
    scipy.sparse.save_npz(tmp_path / "x.npz", X)
    np.save(tmp_path / "y.npy", Y)
    file = data.Arrays(str(tmp_path / "x.npz"), labels_path=str(tmp_path / "y.npy"))
    tables = {
        name: load_table(source)
        for name, source in {
            "csr": data.Arrays(x=X, y=Y),
            "coo": data.Arrays(x=X.tocoo(), y=Y),
            "matrix": data.Arrays(x=scipy.sparse.csc_matrix(X), y=Y),
            "file": file,
        }.items()
    }
    for table, _ in tables.values():
        np.testing.assert_array_equal(table.x[ALL], X.toarray())
        np.testing.assert_array_equal(table.y, Y)
    assert len({digest for _, digest in tables.values()}) == 1
    changed = X.copy()
    changed.data[0] += 1
    assert load_table(data.Arrays(x=changed, y=Y))[1] != tables["csr"][1]


def test_a_change_of_a_matrix_in_memory_is_seen():
    matrix = X.copy()
    source = data.Arrays(x=matrix, y=Y)
    first = load_table(source)[1]
    matrix.data[:] = 1
    assert load_table(source)[1] != first


def test_a_run_and_its_predictions_equal_those_of_the_dense_matrix(tmp_path):
    def weights(x, out):
        exp = tl.Experiment(
            model=tl.models.MLP(widths=(4,)),
            data=data.Arrays(x=x, y=Y, val=5, test=5),
            optim=tl.optim.SGD(lr=0.1),
            steps=3,
            batch=4,
        )
        run = tl.setup(exp, tmp_path / out)
        tl.train(run)
        return run.params

    sparse, dense = weights(X, "sparse"), weights(X.toarray(), "dense")
    for a, b in zip(*map(jax.tree.leaves, (sparse, dense))):
        np.testing.assert_array_equal(a, b)
    folder = write_bundle.export(tmp_path / "sparse", tmp_path / "out")
    scipy.sparse.save_npz(tmp_path / "x.npz", X)
    np.save(tmp_path / "x.npy", X.toarray())
    rows = [predict.predict(folder, tmp_path / name) for name in ("x.npz", "x.npy")]
    assert [r["probability"] for r in rows[0]] == [r["probability"] for r in rows[1]]


def test_what_is_wrong_is_named(tmp_path):
    (tmp_path / "a.svm").write_text("1 3:0.5\n2 x:1\n")
    with pytest.raises(UserError, match=r"a\.svm can't be read: .*expected lines"):
        data.SVMLight(str(tmp_path / "a.svm")).read()
    (tmp_path / "empty.svm").write_text("")
    with pytest.raises(UserError, match="has no rows"):
        data.SVMLight(str(tmp_path / "empty.svm")).read()
    path = write(tmp_path / "b.svm")
    with pytest.raises(UserError, match=r"b\.svm has rows without qid"):
        data.SVMLight(path, split_by="qid").read()
    with pytest.raises(UserError, match="can't be read: n_features"):
        data.SVMLight(path, n_features=3).read()
    with pytest.raises(UserError, match="task='clasification' is no task"):
        data.SVMLight(path, task="clasification")
    nan = X.copy()
    nan.data[-1] = np.nan
    with pytest.raises(UserError, match="1 NaN or infinite values, the first in row"):
        data.Arrays(x=nan, y=Y).read()
    seconds = scipy.sparse.csr_array(1.7e9 + np.arange(40.0)[:, None])
    with pytest.raises(UserError, match="column 0 has values from 1700000000"):
        data.Arrays(x=seconds, y=Y).read()
    with pytest.raises(UserError, match="40"):
        data.prepare(data.Arrays(x=X, y=Y[:39]))


def test_rows_have_one_digest_exactly_where_their_dense_forms_are_equal():
    """Equal values in other columns, and a zero that is stored, are looked at."""
    dense = np.array([[1, 2, 0], [1, 0, 2], [0, 1, 2], [1, 2, 0], [0, 0, 0]], "f")
    matrix = scipy.sparse.csr_array(dense)
    matrix.data[0] = 0  # a stored zero in the first row
    rows = sparse_rows.as_rows(matrix, "x")
    dense = matrix.toarray()
    digests = rows.digests()
    for i, j in itertools.combinations(range(len(dense)), 2):
        assert (digests[i] == digests[j]) == np.array_equal(dense[i], dense[j])
    other = scipy.sparse.csr_array(np.array([[0, 2, 0]], "f"))
    assert sparse_rows.as_rows(other, "x").digests()[0] == digests[0]
