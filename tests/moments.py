"""The disk as a kill would leave it, at each moment at which a program changes it."""

import builtins
import contextlib
import io
import os
import pathlib
import shutil
from unittest import mock

CHANGES = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link")


@contextlib.contextmanager
def moments_of(folder: pathlib.Path):
    """Yields a list that gets a copy of a folder before each change and at the end.

    Changes are calls of `os` and files opened for writing; equal copies come once. What
    was written but not flushed is not in a copy, as after a kill.
    """
    copies, contents = [], []
    active = True

    def copy():
        nonlocal active
        if not active or not folder.exists():
            return
        active = False  # copying changes the disk as well
        content = sorted(
            (str(p.relative_to(folder)), p.read_bytes() if p.is_file() else None)
            for p in folder.rglob("*")
        )
        if content not in contents:
            contents.append(content)
            target = folder.with_name(f"{folder.name}-{len(copies)}")
            shutil.copytree(folder, target, symlinks=True)
            copies.append(target)
        active = True

    def before(function):
        def called(*arguments, **settings):
            copy()
            return function(*arguments, **settings)

        return called

    def opening(function):
        def called(path, mode="r", *arguments, **settings):
            if set(mode) & set("wax+"):
                copy()
            return function(path, mode, *arguments, **settings)

        return called

    with contextlib.ExitStack() as stack:
        for name in CHANGES:
            patch = mock.patch.object(os, name, before(getattr(os, name)))
            stack.enter_context(patch)
        for module in (builtins, io):
            patch = mock.patch.object(module, "open", opening(module.open))
            stack.enter_context(patch)
        yield copies
        copy()
