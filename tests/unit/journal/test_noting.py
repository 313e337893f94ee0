# SPDX-License-Identifier: LGPL-2.1-only
"""What hosts note beside the journals, on a disk that takes or gives nothing: a typed error with
dom0's path, and no VM is hindered by it."""

import os

import pytest

from storage_motion.errors import NotNoted
from storage_motion.journal import arrival, closing
from storage_motion.switch import pool_lock

ID = "11111111-2222-3333-4444-555555555555"
VM = "99999999-8888-7777-6666-555555555555"
LOCK = {"migration": ID, "vm": VM, "host": ID, "host-name": "a1", "disks": '["s/l"]'}
NOTE = {"migration": ID, "vm": VM, "host": ID, "host_name": "a1", "disks": ["s/l"]}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def broken(*_, **__):
    raise OSError(30, os.strerror(30))


@pytest.mark.parametrize(
    "made, path",
    [
        (lambda: arrival.note(ID, VM), "/var/lib/sxm/arrived-%s.json" % ID),
        (lambda: pool_lock.lock(None, LOCK), "/var/lib/sxm/lock-%s.json" % ID),
        (lambda: closing.note(ID, "hard-reboot"), "/run/sxm/%s/closing" % ID),
    ],
)
def test_what_cannot_be_written(monkeypatch, made, path):
    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(NotNoted) as raised:
        made()
    assert raised.value.failure() == ["SXM_NOT_NOTED", path, "Read-only file system"]


@pytest.mark.parametrize(
    "make, forget",
    [
        (lambda: arrival.note(ID, VM), lambda: arrival.forget(ID)),
        (lambda: pool_lock.lock(None, LOCK), lambda: pool_lock.unlock(None, {"migration": ID})),
        (lambda: closing.note(ID, "hard-reboot"), lambda: closing.forget(ID)),
    ],
)
def test_what_cannot_be_removed(monkeypatch, make, forget):
    make()
    with monkeypatch.context() as held:
        held.setattr(os, "unlink", broken)
        with pytest.raises(NotNoted):
            forget()
    forget()
    forget()


def test_a_word_that_cannot_be_read_is_not_taken_for_none(root):
    (root / "run/sxm" / ID / "closing").mkdir(parents=True)
    with pytest.raises(NotNoted):
        closing.noted(ID)


def test_a_directory_that_cannot_be_made(root):
    (root / "var").write_text("in its place")
    with pytest.raises(NotNoted):
        arrival.note(ID, VM)


def test_a_note_that_cannot_be_removed_hinders_no_vm(monkeypatch):
    """The host of the journal has answered that there is nothing to fear."""
    monkeypatch.setattr(pool_lock, "_call", lambda *_: {"disks": [], "ended": True})
    pool_lock.lock(None, LOCK)
    monkeypatch.setattr(os, "unlink", broken)
    assert pool_lock.ask(NOTE) == set()
