"""Signatures with the user's own key: whose code may run."""

import os
import stat

import pytest

from jaxtl.core import trust


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_only_what_this_user_signed_is_trusted(state):
    signature = trust.sign(b"content")
    assert trust.is_trusted(b"content", signature)
    assert not trust.is_trusted(b"other content", signature)
    for forged in (None, "", signature[:-1], "0" * 64, "é", 5, [signature]):
        assert not trust.is_trusted(b"content", forged)


def test_the_key_is_stable_and_readable_by_its_owner_alone(state):
    assert trust.sign(b"a") == trust.sign(b"a")
    [key] = (state / "jaxtl").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_another_users_signature_is_not_trusted(state, tmp_path, monkeypatch):
    signature = trust.sign(b"content")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert not trust.is_trusted(b"content", signature), "there is no key yet"
    trust.sign(b"anything")
    assert not trust.is_trusted(b"content", signature)


def test_allow_trusts_everything_until_it_ends(state):
    with trust.allow():
        assert trust.is_trusted(b"content", None)
    assert not trust.is_trusted(b"content", None)


def test_without_a_place_for_the_key_nothing_is_signed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert trust.sign(b"content") is None
    assert not trust.is_trusted(b"content", None)


def test_a_damaged_key_is_no_key(state):
    trust.sign(b"a")
    (state / "jaxtl" / "key").write_bytes(b"short")
    assert not trust.is_trusted(b"a", trust.sign(b"a"))
    assert os.listdir(state / "jaxtl") == ["key"]
