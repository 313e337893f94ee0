# SPDX-License-Identifier: LGPL-2.1-only
"""Where a password comes from, in which order; and that it is no word of any message."""

import io
import sys

import pytest

from storage_motion.cli import passwords
from storage_motion.cli.failures import NoPassword


class Keyring:
    """In place of the package."""

    class errors:
        class KeyringError(Exception):
            pass

        class NoKeyringError(KeyringError):
            pass

    def __init__(self, answer=None):
        self.answer, self.asked = answer, []

    def get_password(self, service, who):
        self.asked.append((service, who))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def keyring(home, monkeypatch):
    found = Keyring()
    monkeypatch.setitem(sys.modules, "keyring", found)
    monkeypatch.setitem(sys.modules, "keyring.errors", found.errors)
    return found


def find(given=None, configured=None, told=None):
    tell = pytest.fail if told is None else told.append
    return passwords.find("root", "10.0.0.1", given, "SXM_PASSWORD", configured, tell)


def file(folder, text, mode=0o600, name="password"):
    path = folder / (text.strip() or name)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_order(keyring, home, monkeypatch):
    keyring.answer = "ring"
    assert find() == "ring" and keyring.asked == [("sxm", "root@10.0.0.1")]
    configured = file(home, "configured\n")
    assert find(configured=configured) == "configured"
    monkeypatch.setenv("SXM_PASSWORD", "environment")
    assert find(configured=configured) == "environment"
    assert find(file(home, "given\n"), configured) == "given"
    monkeypatch.setattr("sys.stdin", io.StringIO("piped\n"))
    assert find("-") == "piped"


def test_nobody_to_ask(keyring):
    for answer in (None, keyring.errors.NoKeyringError()):
        keyring.answer = answer
        with pytest.raises(NoPassword, match="root at 10.0.0.1"):
            find()


def test_a_keyring_that_fails_is_told(keyring):
    keyring.answer, told = keyring.errors.KeyringError("locked"), []
    with pytest.raises(NoPassword):
        find(told=told)
    assert told == ["the keyring does not answer: locked"]


def test_a_file_that_others_may_read_is_told(keyring, home):
    told = []
    assert find(file(home, "open\n", 0o644), told=told) == "open"
    assert "chmod 600" in told[0]
    with pytest.raises(NoPassword):
        find(file(home, "\n", name="empty"), told=[])


def test_it_is_asked_for_at_a_terminal(keyring, monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(passwords.getpass, "getpass", lambda prompt: "typed after " + prompt)
    assert find() == "typed after Password of root at 10.0.0.1: "
