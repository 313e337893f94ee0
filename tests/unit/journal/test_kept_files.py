# SPDX-License-Identifier: LGPL-2.1-only
"""What has not come along with a VM is kept for a while: for root alone, and only while there is
room."""

import os
import stat
import time

import pytest

from storage_motion.dom0 import root
from storage_motion.errors import NotNoted
from storage_motion.journal import kept_files

ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def dom0(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(root, "free_bytes", lambda here: 2 * kept_files.STAYS_FREE)


def kept():
    return sorted(os.listdir(root.path("/var/lib/sxm")))


def content(name):
    with open(root.path("/var/lib/sxm/kept-%s-%s" % (ID, name)), "rb") as file:
        return file.read()


def test_it_is_whole_and_roots_alone():
    for pieces in ([b"for", b"mer"], [b"one ", b"two"]):
        path = kept_files.keep(ID, "rrd.xml", pieces)
    assert path == "/var/lib/sxm/kept-%s-rrd.xml" % ID and kept() == ["kept-%s-rrd.xml" % ID]
    assert content("rrd.xml") == b"one two"
    assert stat.S_IMODE(os.stat(root.path(path)).st_mode) == 0o600


def test_more_than_there_is_room_for_is_not_begun(monkeypatch):
    monkeypatch.setattr(kept_files, "MOST", 10)
    assert kept_files.room() == 10
    kept_files.keep(ID, "a", [b"123456"])
    assert kept_files.room() == 4
    with pytest.raises(NotNoted, match="more than"):
        kept_files.keep(ID, "b", [b"1234", b"5"])
    with open(root.path("/var/lib/sxm/kept-%s-a.part" % ID), "wb") as file:
        file.write(b"1234567890")  # of one that was killed
    kept_files.keep(ID, "a", [b"1234567890"])
    assert kept() == ["kept-%s-a" % ID]
    monkeypatch.setattr(root, "free_bytes", lambda here: kept_files.STAYS_FREE)
    with pytest.raises(NotNoted, match="would be free"):
        kept_files.keep(ID, "a", [b"1"])
    assert kept() == ["kept-%s-a" % ID] and content("a") == b"1234567890"


def test_what_breaks_off_leaves_nothing():
    def pieces():
        yield b"a part"
        raise ValueError("the rest cannot be read")

    with pytest.raises(ValueError):
        kept_files.keep(ID, "a", pieces())
    assert kept() == []
    kept_files.keep(ID, "a", [b"before"])
    with pytest.raises(ValueError):
        kept_files.keep(ID, "a", pieces())
    assert kept() == ["kept-%s-a" % ID] and content("a") == b"before"


def test_old_ones_go():
    kept_files.prune()
    for name in ("old", "new"):
        kept_files.keep(ID, name, [b"x"])
    journal = root.path("/var/lib/sxm/%s.json" % ID)
    open(journal, "w").close()
    then = time.time() - (kept_files.DAYS + 1) * 24 * 3600
    for path in (root.path("/var/lib/sxm/kept-%s-old" % ID), journal):
        os.utime(path, (then, then))
    kept_files.prune()
    assert kept() == ["%s.json" % ID, "kept-%s-new" % ID]
