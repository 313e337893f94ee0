# SPDX-License-Identifier: LGPL-2.1-only
"""The last undo, whatever xapi forgets: nothing of ours stays at the source, nor does it come
back."""

import pytest

from storage_motion.migration import durable
from storage_motion.migration.phases import claim, release
from storage_motion.sm import marks
from storage_motion.switch import source_lock
from test_claim import FakeMigration


@pytest.fixture
def m(monkeypatch):
    found = FakeMigration()
    monkeypatch.setattr(durable.database, "sync", lambda session: session.sync())
    claim.claim(found)
    for disk in found.plan.disks:
        source_lock.begin_again(found, disk)
    found.source.sync()
    return found


def nothing_of_ours(m):
    (vdi,) = m.source.tables["VDI"].values()
    assert all(vbd["unpluggable"] for vbd in m.source.tables["VBD"].values())
    return (
        m.record["blocked_operations"] == {}
        and m.record["other_config"] == vdi["other_config"] == vdi["sm_config"] == {}
    )


def test_it_is_on_disk(m):
    for disk in m.plan.disks:
        source_lock.lift(m, disk)
    release.release(m)
    m.source.goes_back()
    assert nothing_of_ours(m)


def test_both_marks_that_come_back_are_taken_away(m, monkeypatch):
    (vdi,) = m.source.tables["VDI"].values()
    vdi["sm_config"] = {marks.PAUSED: marks.of_source(m.id)}
    m.source.sync()
    crashes = [m.source.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    release.release(m)
    m.source.goes_back()
    assert nothing_of_ours(m)


def test_what_comes_back_before_that_is_taken_away_again(m, monkeypatch):
    crashes = [m.source.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    blocked = list(m.entry["blocked"])
    release.release(m)
    assert blocked and nothing_of_ours(m)
    m.source.goes_back()
    assert nothing_of_ours(m)
