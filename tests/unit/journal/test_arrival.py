# SPDX-License-Identifier: LGPL-2.1-only
"""The note of an arrival: there as a whole or not at all, and never taken for none when it cannot
be read."""

import os

import pytest

from storage_motion.errors import JournalError, NoSuchMigration
from storage_motion.journal import arrival, journal

ID = "11111111-2222-3333-4444-555555555555"
VM = "99999999-8888-7777-6666-555555555555"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def test_it_is_noted_read_and_forgotten(root):
    assert arrival.read(ID) is None
    arrival.note(ID, VM)
    arrival.note(ID, VM)
    assert arrival.read(ID)["vm"] == VM
    path = root / "var/lib/sxm" / ("arrived-%s.json" % ID)
    assert path.stat().st_mode & 0o777 == 0o600
    assert journal.all_ids() == journal.all_ids(journal.RECEIVING) == [], "it is no journal"
    arrival.forget(ID)
    arrival.forget(ID)
    assert arrival.read(ID) is None and os.listdir(str(root / "var/lib/sxm")) == []


def test_it_is_on_disk_when_it_is_noted(monkeypatch):
    synced, replaced = [], os.rename
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.readlink("/proc/self/fd/%d" % descriptor))
    )
    monkeypatch.setattr(
        os, "rename", lambda old, new: (synced.append("rename"), replaced(old, new))
    )
    arrival.note(ID, VM)
    assert [os.path.basename(name).partition("-")[0] for name in synced] == [
        "arrived",
        "rename",
        "sxm",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"migration": "%s"}' % ID, '{"migration": "x", "vm": "v"}', "\xff"],
)
def test_one_that_cannot_be_read_is_no_absence(root, text):
    arrival.note(ID, VM)
    (root / "var/lib/sxm" / ("arrived-%s.json" % ID)).write_bytes(text.encode("latin-1"))
    with pytest.raises(JournalError):
        arrival.read(ID)


def test_what_is_no_id_becomes_no_path():
    with pytest.raises(NoSuchMigration):
        arrival.note("../x", VM)
