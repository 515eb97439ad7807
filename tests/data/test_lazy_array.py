"""Lazy arrays index as the numpy arrays that they stand for."""

import numpy as np

from jaxtl.data import lazy_array


def test_selections_and_concatenations_index_like_numpy(tmp_path):
    values = np.arange(60).reshape(20, 3)
    np.save(tmp_path / "values.npy", values)
    mapped = lazy_array.MemoryMapped(str(tmp_path / "values.npy"))
    selected = values[[4, 2, 9]]
    selection = lazy_array.RowSelection(mapped, np.asarray([4, 2, 9]))
    concatenation = lazy_array.Concatenation((mapped, selection))
    for array, expected in (
        (mapped, values),
        (selection, selected),
        (concatenation, np.concatenate([values, selected])),
    ):
        assert array.shape == expected.shape
        assert len(array) == len(expected)
        np.testing.assert_array_equal(array[:], expected)
        index = np.asarray([[0, 2], [1, 1]])
        np.testing.assert_array_equal(array[index], expected[index])
        np.testing.assert_array_equal(array[1], expected[1])
        mask = np.arange(len(expected)) % 2 == 0
        np.testing.assert_array_equal(array[mask], expected[mask])
