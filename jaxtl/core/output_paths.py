"""Paths that results are written to, checked before the work rather than after it."""

import os
import pathlib

from jaxtl.core.errors import UserError

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")  # what matplotlib draws


class OutputPath(type(pathlib.Path())):  # type: ignore[misc]
    """A path that a command writes to, as its argument's type.

    The command line checks every argument of a subclass before the command begins.
    """

    def check(self) -> None:
        """Raises UserError where the path can't be written."""
        raise NotImplementedError


class OutputFile(OutputPath):
    """A file in a folder that exists."""

    def check(self) -> None:
        """Raises UserError for a directory, or a file that can't be made."""
        _check_no_folder(self)
        if not self.parent.is_dir():
            raise UserError(
                f"{self} can't be written: there is no directory {self.parent}."
            )
        check_folder(pathlib.Path(self.parent))


class OutputFileOfNewFolder(OutputPath):
    """A file whose folder is made where it is missing."""

    def check(self) -> None:
        """Raises UserError for a directory, or a folder that can't be made."""
        _check_no_folder(self)
        check_folder(pathlib.Path(self.parent))


class OutputPicture(OutputFile):
    """A picture in a folder that exists."""

    def check(self) -> None:
        """Raises UserError as for a file, and for a name that is of no picture."""
        _check_picture(self)
        super().check()


class OutputPictureOfNewFolder(OutputFileOfNewFolder):
    """A picture whose folder is made where it is missing."""

    def check(self) -> None:
        """Raises UserError as for a file, and for a name that is of no picture."""
        _check_picture(self)
        super().check()


class OutputFolder(OutputPath):
    """A folder, which is made with its parents where it is missing."""

    def check(self) -> None:
        """Raises UserError for a folder that can't be made or written to."""
        check_folder(pathlib.Path(self))


class OutputBySuffix(OutputPath):
    """A file where the name has a suffix, else a folder."""

    def check(self) -> None:
        """Raises UserError as for the one of both that it is."""
        kind = OutputFile if self.suffix and not self.is_dir() else OutputFolder
        kind(self).check()


def _check_picture(path: pathlib.Path) -> None:
    if path.suffix.lower() not in PICTURES and not path.is_dir():
        raise UserError(
            f"{path} can't be written: expected a picture's name ending in "
            f"{', '.join(PICTURES[:-1])} or {PICTURES[-1]}."
        )


def _check_no_folder(path: pathlib.Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} can't be written: it is a directory; name a file.")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(_no_access(path))


def check_folder(path: pathlib.Path) -> None:
    """Raises UserError, before any work, where a directory can't be made or written.

    Args:
      path: the directory, which need not exist, nor its parents.
    """
    existing = path.absolute()
    while not existing.exists() and not existing.is_symlink():
        existing = existing.parent
    if not existing.is_dir():
        inside = "" if existing == path.absolute() else f", so {path} can't be made"
        raise UserError(f"{existing} is a file; a directory is needed{inside}.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(_no_access(existing))


def _no_access(path: pathlib.Path) -> str:
    """Why an existing file or folder can't be written."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} can't be written: it is on a read-only file system."
    return f"{path} can't be written to by this user."
