# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery at the destination: the new disks are taken away only where no source comes any more,
and the VM cannot have run on them."""

import os

import pytest

from fake_destination import ID, KEYS, VM, nothing_left, open_gate
from storage_motion.dom0 import gate_notes
from storage_motion.dom0.launch import Process
from storage_motion.errors import BadArguments, JournalError, TimedOut
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import (
    at_destination,
    recovery,
    recovery_decision,
    recovery_destination,
)
from storage_motion.sm import marks

DEAD = {"pid": 1, "started": -1}
ALIVE = Process.of(os.getpid()).to_json()


@pytest.fixture
def left_alone(destination):
    """Two disks behind their gates; their receiver has died, and the source says nothing."""
    destination.receive()
    entry = Journal.load(ID, journal.RECEIVING)
    entry.write(receivers=[dict(one, process=DEAD) for one in entry.entry["receivers"]])
    return destination


def recover(destination, **given):
    """The answers of a recovery of all, or of the one that is named."""
    found = recovery.recover(destination.pool, given)["migrations"]
    assert all((one["migration"], one["side"]) == (ID, "destination") for one in found)
    return found


def waits(destination, why):
    (answer,) = recover(destination, migration=ID)
    assert answer["outcome"] == recovery_decision.WAITING and why in answer["why"]
    assert len(destination.vdis()) == 2 and "vdi_receive_abort" not in destination.sm_calls
    return True


def test_named_it_is_taken_away_at_once(left_alone, tmp_path):
    (answer,) = recover(left_alone, migration=ID)
    assert (
        answer["outcome"] == recovery_decision.TAKEN_BACK
        and "the VM cannot be here" in answer["why"]
    )
    assert nothing_left(left_alone, tmp_path)


@pytest.mark.parametrize("where", ["receiver", "busy"])
def test_while_a_process_of_it_runs_it_is_the_sources(left_alone, where):
    entry = Journal.load(ID, journal.RECEIVING)
    receivers = [dict(one, process=ALIVE) for one in entry.entry["receivers"]]
    entry.write(**({"receivers": receivers} if where == "receiver" else {"busy": ALIVE}))
    (answer,) = recover(left_alone, migration=ID)
    assert answer["outcome"] == recovery_decision.RUNNING and "600 s" in answer["why"]
    assert len(left_alone.vdis()) == 2


def updated_long_ago():
    entry = Journal.load(ID, journal.RECEIVING)
    entry._put(dict(entry.entry, updated=0.0))


def test_by_itself_it_waits_for_the_source_first(left_alone, tmp_path, monkeypatch):
    (answer,) = recover(left_alone)
    assert answer["outcome"] == recovery_decision.WAITING and answer["why"].startswith(
        "the source, for "
    )
    updated_long_ago()
    monkeypatch.setattr(
        recovery_destination, "_uptime", lambda: recovery_destination.ORPHAN_BOUND + 1
    )
    (answer,) = recover(left_alone)
    assert answer["outcome"] == recovery_decision.TAKEN_BACK and nothing_left(left_alone, tmp_path)


def test_a_host_that_was_off_for_long_gives_the_source_that_time_anew(left_alone, monkeypatch):
    """Nobody could reach it meanwhile."""
    updated_long_ago()
    with open("/proc/uptime") as stream:
        up = float(stream.read().split()[0])
    monkeypatch.setattr(recovery_destination, "ORPHAN_BOUND", up + 1000.0)
    (answer,) = recover(left_alone)
    assert answer["outcome"] == recovery_decision.WAITING
    seconds = int(answer["why"][len("the source, for ") :].split()[0])
    assert 900 < seconds <= 1000 and len(left_alone.vdis()) == 2


@pytest.mark.parametrize("number", range(2))
def test_a_gate_that_was_opened_keeps_all_disks_whatever_the_database_says(left_alone, number):
    vdi = sorted(vdi["uuid"] for vdi in left_alone.vdis().values())[number]
    gate_notes.note(vdi)
    assert waits(left_alone, "the VM may be here, as the gate of %s has been opened" % vdi)


@pytest.mark.parametrize("change", [{marks.RELINKING: None}, {marks.HOST + "OpaqueRef:1": "RW"}])
def test_so_does_one_that_is_not_shut_or_a_disk_that_is_active(left_alone, change):
    first = sorted(left_alone.vdis())[0]
    config = left_alone.vdis()[first]["sm_config"]
    config.update(change)
    for key in [key for key, value in change.items() if value is None]:
        del config[key]
    assert waits(left_alone, "the gate of %s" % left_alone.vdis()[first]["uuid"])


def test_after_both_were_opened_nothing_is_taken_away(left_alone):
    open_gate(left_alone)
    assert waits(left_alone, ", ")


def test_half_a_gate_is_made_whole_before_anything_else(left_alone, monkeypatch):
    """SM clears `paused` when an SR's master plugs it."""
    for vdi in left_alone.vdis().values():
        del vdi["sm_config"][marks.PAUSED]
    monkeypatch.setattr(recovery_destination, "_shut", lambda session, uuid: False)
    assert waits(left_alone, "the gate of ")
    assert [vdi["sm_config"][marks.PAUSED] for vdi in left_alone.vdis().values()] == [
        marks.SHUT
    ] * 2


def test_what_the_storage_manager_is_at_is_waited_for(left_alone, monkeypatch):
    def busy(vdis):
        assert sorted(vdis) == sorted(vdi["uuid"] for vdi in left_alone.vdis().values())
        raise TimedOut("process 7, a command of the storage manager, to end", "600")

    monkeypatch.setattr(recovery_destination.smapi, "await_commands", busy)
    assert waits(left_alone, "process 7")


def test_a_disk_whose_record_is_gone_or_that_was_never_made_has_no_gate(left_alone, tmp_path):
    entry = Journal.load(ID, journal.RECEIVING)
    vdi = entry.entry["disks"][KEYS[0]]["vdi"]
    del left_alone.vdis()[left_alone.pool.xenapi.VDI.get_by_uuid(vdi)]
    entry.entry["disks"][KEYS[1]].update(vdi=None, shut=False)
    entry.write()
    (answer,) = recover(left_alone, migration=ID)
    assert answer["outcome"] == recovery_decision.TAKEN_BACK and nothing_left(left_alone, tmp_path)


def test_one_that_is_not_to_begin_here_is_nobodys(destination):
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert recover(destination) == [] and journal.all_ids(journal.RECEIVING) == [ID]


def test_within_a_pool_the_sources_journal_decides(left_alone, monkeypatch):
    """Though it is on the same host, and says nothing yet."""
    path = Journal.load(ID, journal.RECEIVING).path.replace(journal.RECEIVING, "")
    with open(path, "w") as stream:
        stream.write("torn")
    (answer,) = recovery.recover(left_alone.pool, {})["migrations"]
    assert (answer["side"], answer["outcome"]) == ("source", recovery_decision.WAITING)
    assert len(left_alone.vdis()) == 2


OWED = {"ha_restart_priority": "restart", "tracked": [KEYS[0]]}


def owe(destination, **changes):
    given = {"migration": ID, "ha-restart-priority": "restart", "vdis": '["%s"]' % KEYS[0]}
    return at_destination.receive_owed(destination.pool, dict(given, **changes))


@pytest.mark.parametrize("has_run", [False, True])
def test_what_a_source_that_is_lost_owes_the_vm_is_told(left_alone, has_run, monkeypatch):
    """Only its journal knew it."""
    owe(left_alone)
    assert Journal.load(ID, journal.RECEIVING).entry["owed"] == OWED
    open_gate(left_alone)
    monkeypatch.setattr(recovery_destination.arrival, "read", lambda migration: has_run)
    assert waits(
        left_alone,
        "xe vm-param-set uuid=%s ha-restart-priority=restart; xe vdi-enable-cbt uuid=%s"
        % (VM, KEYS[0]),
    )


@pytest.mark.parametrize(
    "changes", [{"ha-restart-priority": "x; reboot"}, {"vdis": "x"}, {"vdis": '["x"]'}]
)
def test_what_another_pool_says_is_owed_is_checked(left_alone, changes):
    with pytest.raises(BadArguments):
        owe(left_alone, **changes)
    assert "owed" not in Journal.load(ID, journal.RECEIVING).entry


@pytest.mark.parametrize("owed", [None, {}, dict(OWED, tracked=[1]), dict(OWED, tracked="x")])
def test_an_odd_one_is_no_journal(left_alone, owed):
    Journal.load(ID, journal.RECEIVING).write(owed=owed)
    with pytest.raises(JournalError):
        Journal.load(ID, journal.RECEIVING)
