"""Checkpoints: whole or not at all, and one sentence for what can't be read."""

import errno
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import checkpoint, orbax_module
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError

ITEMS = {
    "last": {"params": {"stem": {"kernel": jnp.arange(6.0).reshape(2, 3)}}},
    "state": {
        "opt.inner.stem|stage[12].mu": jnp.ones(3, jnp.bfloat16),
        "n": jnp.int32(7),
    },
    "nothing": {"empty": {}},
}


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path / "c", 5, ITEMS, {"best": None, "step": 5})
    return tmp_path / "c"


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_was_saved_comes_back(folder):
    assert checkpoint.steps(folder) == [5]
    assert checkpoint.meta(folder, 5) == {"best": None, "step": 5}
    found = checkpoint.restore(folder, 5, jax.tree.map(jnp.zeros_like, ITEMS))
    same(found, ITEMS)
    kinds = jax.tree.map(lambda x: x.dtype, found)
    assert kinds == jax.tree.map(lambda x: x.dtype, ITEMS)
    same(checkpoint.read(folder, 5, "last"), ITEMS["last"])
    assert "nothing" not in checkpoint.items(folder, 5)


def test_the_one_before_goes_when_the_new_one_stands(folder):
    checkpoint.save(folder, 9, ITEMS, {})
    assert checkpoint.steps(folder) == [9]
    assert checkpoint.latest(folder) == 9


def test_a_whole_checkpoint_is_never_written_again(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    checkpoint.save(folder, 5, ITEMS, {"other": 1})
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_half_written_ones_are_not_seen_and_are_cleared_away(folder):
    half = folder / "8.orbax-checkpoint-tmp"
    shutil.copytree(folder / "5", half)
    (folder / "7").mkdir()  # a folder that no save has finished
    assert checkpoint.latest(folder) == 5
    checkpoint.save(folder, 8, ITEMS, {})
    assert checkpoint.latest(folder) == 8
    assert not half.exists()


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    with pytest.raises(UserError, match="there is no folder of checkpoints"):
        checkpoint.meta(tmp_path / "none", 3)


def test_other_shapes_are_shown_side_by_side(folder):
    other = {
        "last": {"params": {"stem": {"kernel": jnp.zeros((2, 4))}, "new": jnp.ones(1)}}
    }
    with pytest.raises(UserError) as caught:
        checkpoint.restore(folder, 5, other)
    text = str(caught.value)
    assert "does not fit the experiment" in text
    assert "- params/stem/kernel (2, 3)" in text
    assert "+ params/stem/kernel (2, 4)" in text
    assert "- params/new missing" in text


def test_a_missing_item_is_told(folder):
    with pytest.raises(UserError, match="can't be read as a checkpoint"):
        checkpoint.read(folder, 5, "best")


def test_damage_anywhere_is_one_sentence(folder):
    """Empties each file in turn: what is read is whole, or the error is ours."""
    files = [p for p in (folder / "5").rglob("*") if p.is_file()]
    told = []
    for path in files:
        kept = path.read_bytes()
        path.write_bytes(b"")
        try:
            checkpoint.meta(folder, 5)
            found = checkpoint.restore(folder, 5, jax.tree.map(jnp.zeros_like, ITEMS))
            same(found, ITEMS)
        except UserError as error:
            told.append(str(error))
        path.write_bytes(kept)
    assert len(told) >= 3
    assert all("can't be read" in text and "\n" not in text for text in told)


def test_a_flipped_byte_in_the_numbers_is_noticed(folder):
    data = max((folder / "5").rglob("d/*"), key=lambda p: p.stat().st_size)
    bytes_ = bytearray(data.read_bytes())
    for i in range(len(bytes_)):
        bytes_[i] ^= 0xFF
    data.write_bytes(bytes(bytes_))
    with pytest.raises(UserError, match="can't be read"):
        checkpoint.restore(folder, 5, jax.tree.map(jnp.zeros_like, ITEMS))


def test_a_full_disk_keeps_the_one_before(folder, monkeypatch):
    ocp = orbax_module.orbax()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(UserError, match=r"no space left on the disk.*step 5 is kept"):
        checkpoint.save(folder, 6, ITEMS, {})
    monkeypatch.undo()
    same(checkpoint.read(folder, 5, "last"), ITEMS["last"])


def test_other_failures_are_not_hidden(folder, monkeypatch):
    ocp = orbax_module.orbax()

    def broken(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(ocp.CheckpointManager, "save", broken)
    with pytest.raises(RuntimeError, match="something else"):
        checkpoint.save(folder, 6, ITEMS, {})


def test_flat_names_hold_any_path():
    tree = {"groups": {"stem|a/b": (jnp.ones(1), jnp.zeros(2))}}
    flat = checkpoint.flat(tree)
    assert all("/" not in name for name in flat)
    assert (
        trees.flatten(checkpoint.unflat(flat, tree)).keys()
        == trees.flatten(tree).keys()
    )


def test_folders_of_arrays_from_elsewhere_are_read(tmp_path):
    ocp = orbax_module.orbax()
    tree = {"params": {"stem": {"kernel": np.ones((2, 2))}}, "batch_stats": {}}
    with ocp.StandardCheckpointer() as theirs:
        theirs.save(tmp_path / "theirs", tree)
    found = checkpoint.read_tree(tmp_path / "theirs")
    np.testing.assert_array_equal(found["params"]["stem"]["kernel"], np.ones((2, 2)))
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="can't be read as a checkpoint"):
        checkpoint.read_tree(tmp_path / "photos")


async def _late_reader():
    """Stands for one of orbax, by the file that its code is of."""


def test_readers_that_end_after_the_error_was_told_are_not_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(orbax_module.sys, "unraisablehook", reported.append)
    orbax_module.orbax.cache_clear()
    orbax_module.orbax()
    hook = orbax_module.sys.unraisablehook
    reader = _late_reader()
    code = reader.cr_code.replace(co_filename="/lib/orbax/checkpoint/serialization.py")
    late = types.SimpleNamespace(cr_code=code)
    closed = RuntimeError("Event loop is closed")
    for value, source in ((OSError("x"), late), (closed, None), (OSError("x"), reader)):
        hook(
            types.SimpleNamespace(exc_type=type(value), exc_value=value, object=source)
        )
    reader.close()
    assert [error.object for error in reported] == [reader]
    orbax_module.orbax.cache_clear()


def test_a_numbered_folder_without_its_mark_is_damaged(folder):
    (folder / "7").mkdir()
    (folder / "7" / "last").mkdir()
    with pytest.raises(UserError, match=r"7 is damaged: .*goes on from step 5"):
        checkpoint.latest(folder)
