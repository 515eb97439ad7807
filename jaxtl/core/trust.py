"""Whose code may run: a run's directory is signed with a key of this user and machine.

A run keeps a copy of its experiment file, and names functions and classes. Reading a
directory that somebody else made must not run his code. So what a run stores is signed
(HMAC-SHA256) with a key that lies in the user's state folder, and unsigned code runs
only inside `allow()`, which is `--trust` on the command line.
"""

import contextlib
import contextvars
import hashlib
import hmac
import os
import pathlib
import secrets
from collections.abc import Iterator

_KEY_BYTES = 32
_allowed = contextvars.ContextVar("jaxtl_trust", default=False)


@contextlib.contextmanager
def allow() -> Iterator[None]:
    """Inside it, the code of every directory that is read may run."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def sign(content: bytes) -> str | None:
    """Signs content with this user's key (HMAC-SHA256); creates the key if need be.

    Args:
      content: bytes that a run stores, of its experiment file say.

    Returns:
      The signature in hexadecimal; None where this user can't keep a key.
    """
    key = _key(create=True)
    return None if key is None else hmac.new(key, content, hashlib.sha256).hexdigest()


def is_trusted(content: bytes, signature: object) -> bool:
    """Whether the code of stored content may run.

    Args:
      content: the bytes as they are stored now.
      signature: what `sign` returned when they were stored; anything else, None say, is
        no signature.

    Returns:
      True where this user signed the same bytes on this machine, or `allow` is active.
    """
    if _allowed.get():
        return True
    key = _key(create=False)
    if key is None or not isinstance(signature, str):
        return False
    expected = hmac.new(key, content, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode())


def _key(*, create: bool) -> bytes | None:
    """The user's key, of which only its owner has the permission to read."""
    state = os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local/state"
    path = pathlib.Path(state) / "jaxtl" / "key"
    try:
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(temporary, path)
            temporary.unlink()
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no home, or a home that can't be written
        return None
    return key if len(key) == _KEY_BYTES else None
