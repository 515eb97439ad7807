"""Errors of disks that can't be written and of memory that is used up, in sentences."""

import errno
import os

# Error number -> how a user is told, with a place for what was to be written.
_DISK = {
    errno.ENOSPC: "no space left on the disk for {}",
    errno.EDQUOT: "no space left in this user's disk quota for {}",
    errno.EROFS: "the file system is read-only: can't write {}",
    errno.EACCES: "this user has no permission to write {}",
    errno.EPERM: "this user has no permission to write {}",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
# How XLA begins an error of memory; tensorstore begins one of a full disk likewise.
_EXHAUSTED = "RESOURCE_EXHAUSTED"
# How numpy, by a ValueError, refuses an array that no address space holds.
_TOO_LARGE = ("array is too big", "Maximum allowed dimension exceeded")
OUT_OF_MEMORY = (
    "out of memory; a smaller batch, accumulate=2, remat=True of the model or "
    "dtype='bfloat16' needs less."
)


def disk_error(error: BaseException) -> int | None:
    """The number of an error of writing: ENOSPC, EDQUOT, EROFS, EACCES or EPERM.

    Libraries in C++ raise errors without a number, which hold the system's message.

    Returns:
      The number, None for any other error.
    """
    number = getattr(error, "errno", None)
    if number is not None:
        return number if number in _DISK else None
    text = str(error)
    return next((code for code in _DISK if os.strerror(code) in text), None)


def disk_sentence(error: BaseException, target: object) -> str:
    """Tells in a sentence without its full stop why a target could not be written.

    Args:
      error: that was raised while it was written.
      target: what was to be written, in words or as a path.

    Returns:
      The sentence, "" for an error that `disk_error` does not know.
    """
    number = disk_error(error)
    return "" if number is None else _DISK[number].format(target)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or the device is used up."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if isinstance(error, ValueError) and str(error).startswith(_TOO_LARGE):
        return True
    return _EXHAUSTED in str(error) and disk_error(error) is None


def device_sentence(error: BaseException) -> str:
    """An error of the device, as a run's reason to fail: its first line, or memory."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return str(error).partition("\n")[0]
