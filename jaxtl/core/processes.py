"""Whether another process of this machine still runs."""

import os


def is_running(number: int) -> bool:
    """Whether a process of this number runs here, whoever started it."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):  # or more than any number is
        return False
    except PermissionError:
        return True
    return True
