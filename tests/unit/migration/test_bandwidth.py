# SPDX-License-Identifier: LGPL-2.1-only
"""The bandwidth of a migration, and what the mover of the disk that is being copied is told of
it."""

import pytest

from fake_migration import ID
from storage_motion.migration import bandwidth

MIB = 1 << 20


class Mover(object):
    def __init__(self):
        self.told = []

    def limit(self, value):
        self.told.append(value)


class Migration(object):
    def __init__(self, value):
        self.entry = {"migration": ID, "bandwidth": value}
        self.copying = Mover()

    def note(self, **fields):
        self.entry.update(fields)

    def mover(self, key):
        assert key == "copying"
        return self.copying


class Clock(object):
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))


def statuses(other, own=0):
    return {"copying": {"mirrored_bytes": own}, "other": {"mirrored_bytes": other}}


def test_a_mover_has_what_the_mirrors_of_the_other_disks_leave():
    m, clock = Migration(100 * MIB), Clock()
    share = bandwidth.Share(m, "copying", clock)
    share.keep(statuses(0))
    assert m.copying.told == [100 * MIB]
    clock.now += 0.5
    share.keep(statuses(1000 * MIB))  # it is looked once a second
    assert len(m.copying.told) == 1
    clock.now += 1.5
    share.keep(statuses(60 * MIB, own=500 * MIB))  # its own mirror it counts itself
    assert m.copying.told[1:] == [70 * MIB]
    clock.now += 1
    share.keep(statuses(91 * MIB))  # hardly another pace
    assert len(m.copying.told) == 2
    clock.now += 1
    share.keep(statuses(1000 * MIB))
    assert m.copying.told[2:] == [5 * MIB]  # a twentieth in any case
    clock.now += 1
    share.keep(statuses(0))  # its mover is another one now
    assert m.copying.told[3:] == [100 * MIB]


def test_without_one_the_mover_is_told_so_once_whatever_it_was_told_before():
    m, clock = Migration(0), Clock()
    share = bandwidth.Share(m, "copying", clock)
    share.keep(statuses(0))
    clock.now += 1
    share.keep(statuses(0))
    assert m.copying.told == [0]
    for value in (50 * MIB, 0, 0):
        bandwidth.change(m.entry["migration"], value)
        assert bandwidth.of(m.entry) == value
        clock.now += 1
        share.keep(statuses(0))
        assert m.entry["bandwidth"] == value
    assert m.copying.told == [0, 50 * MIB, 0]
