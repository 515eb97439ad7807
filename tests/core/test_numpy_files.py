"""Files of arrays: any damage is one sentence, without numpy's advice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.core.numpy_files import read_npy, read_npz


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


def test_arrays_come_back(folder):
    np.save(folder / "a.npy", np.arange(6).reshape(2, 3))
    np.savez(folder / "a.npz", x=np.arange(3), y=np.float32(2))
    np.testing.assert_array_equal(read_npy(folder / "a.npy"), [[0, 1, 2], [3, 4, 5]])
    assert isinstance(read_npy(folder / "a.npy", "r"), np.memmap)
    arrays = read_npz(folder / "a.npz")
    assert list(arrays) == ["x", "y"]
    assert list(read_npz(folder / "a.npz", ["y"])) == ["y"]


@pytest.mark.parametrize("content", [b"", b"{}", b"PK", bytes(range(256)), b"\x80\x04"])
def test_what_is_no_array_is_refused(folder, content):
    path = folder / "b"
    path.write_bytes(content)
    for read, suffix in ((read_npy, ".npy"), (read_npz, ".npz")):
        with pytest.raises(
            UserError, match=f"can't be read as a {suffix} file"
        ) as told:
            read(path)
        assert "allow_pickle" not in str(told.value)


def test_objects_folders_and_the_other_kind_are_refused(folder):
    np.save(folder / "o.npy", np.array([{}, None]), allow_pickle=True)
    np.save(folder / "c.npy", np.zeros(2))
    np.savez(folder / "c.npz", x=np.zeros(2))
    with pytest.raises(UserError, match="it holds Python objects"):
        read_npy(folder / "o.npy")
    with pytest.raises(UserError, match="it is a single array"):
        read_npz(folder / "c.npy")
    with pytest.raises(UserError, match="it is an archive"):
        read_npy(folder / "c.npz")
    for read in (read_npy, read_npz):
        with pytest.raises(UserError, match="is a directory"):
            read(folder)
        with pytest.raises(UserError, match="no such file"):
            read(folder / "missing")


@given(data=st.data())
def test_a_damaged_archive_is_read_right_or_refused(folder, data):
    path = folder / "d.npz"
    np.savez_compressed(path, x=np.arange(40), y=np.ones(3))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(content) - 1))
        content[index] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        arrays = read_npz(path)
    except UserError:
        return
    for name, expected in (("x", np.arange(40)), ("y", np.ones(3))):
        if name in arrays:  # a name is not protected by the archive's checksums
            np.testing.assert_array_equal(arrays[name], expected)
