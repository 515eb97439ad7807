"""Errors of disks and of memory are told apart, each in a sentence of its own."""

import errno
import os

import jax
import numpy as np
import pytest

from jaxtl.core import checkpoint, orbax_module, output_paths, resource_errors
from jaxtl.core.errors import UserError

SENTENCES = {
    errno.ENOSPC: "no space left on the disk for RUN",
    errno.EDQUOT: "no space left in this user's disk quota for RUN",
    errno.EROFS: "the file system is read-only: can't write RUN",
    errno.EACCES: "this user has no permission to write RUN",
}


@pytest.mark.parametrize("number", SENTENCES)
def test_errors_of_a_disk_by_number_and_by_the_systems_message(number):
    text = f"Error writing local file: {os.strerror(number)} [source locations=...]"
    status = "RESOURCE_EXHAUSTED" if number in resource_errors.FULL else "FAILED"
    for error in (
        OSError(number, os.strerror(number), "x"),
        ValueError(f"{status}: {text}"),  # as tensorstore raises it
    ):
        assert resource_errors.disk_error(error) == number
        assert resource_errors.disk_sentence(error, "RUN") == SENTENCES[number]
        assert not resource_errors.is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 B"),
    ],
)
def test_memory_that_is_used_up_is_no_full_disk(error, tmp_path, monkeypatch):
    def save(*_, **__):
        raise error

    assert resource_errors.is_out_of_memory(error)
    assert resource_errors.disk_sentence(error, "RUN") == ""
    monkeypatch.setattr(orbax_module.orbax().CheckpointManager, "save", save)
    with pytest.raises(type(error)):
        checkpoint.save(tmp_path, 1, {"last": {"a": 1}}, {})


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyError("axis")]
)
def test_other_errors_are_neither(error):
    assert resource_errors.disk_error(error) is None
    assert not resource_errors.is_out_of_memory(error)


@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_read_only_disk_is_not_a_missing_permission(
    tmp_path, monkeypatch, is_read_only
):
    flags = os.ST_RDONLY if is_read_only else 0
    values = list(os.statvfs(tmp_path))
    values[8] = flags
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    (tmp_path / "file").touch()
    expected = "read-only file system" if is_read_only else "to by this user"
    with pytest.raises(UserError, match=expected):
        output_paths.check_folder(tmp_path / "run")
    with pytest.raises(UserError, match=expected):
        output_paths.OutputFile(tmp_path / "file").check()


@pytest.mark.parametrize("shape", [(10, 3 * 10**11, 3 * 10**11), (2**70,)])
def test_an_array_that_no_memory_holds_is_out_of_memory(shape):
    with pytest.raises(ValueError) as error:
        np.zeros(shape)
    assert resource_errors.is_out_of_memory(error.value)
    assert not resource_errors.is_out_of_memory(ValueError("too big"))
