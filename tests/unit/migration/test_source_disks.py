# SPDX-License-Identifier: LGPL-2.1-only
"""Within a pool the disks that a migration reads and those that it makes are in one database, and
may be in one SR: whatever fails, the destination takes away none of those that it reads."""

import json

import pytest
import XenAPI

from fake_destination import ID, KEYS, VM
from fake_pool import GIB, NULL, add_vdi, add_vm, by_name, uuid_of
from storage_motion.errors import BadArguments, DiskOfVm, MotionError
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import at_destination, received_history, source_disks
from test_received_snapshots import FROZEN

CLAIMED = {"sxm_migration": ID}
MADE = {"sxm_migration": ID, "sxm_receives": ID}
FAILS = ["create 1", "create 2", "after create 1", "after create 2", "vdi_receive_start 2"]


@pytest.fixture
def source(destination):
    """A disk of the VM that moves, in the SR that another one goes to."""
    return add_vdi(destination.pool, destination.sr, GIB, other_config=dict(CLAIMED))


def abort(destination):
    return at_destination.receive_abort(destination.pool, {"migration": ID})


def entry_of():
    return Journal.load(ID, journal.RECEIVING)


@pytest.mark.parametrize("fails", FAILS)
def test_what_fails_takes_its_own_away_and_none_of_the_source(destination, source, fails):
    destination.fails = fails
    with pytest.raises((MotionError, XenAPI.Failure)):
        destination.receive()
    assert list(destination.vdis()) == [source]


@pytest.mark.parametrize("fails", FAILS)
def test_so_does_what_fails_for_the_disks_of_snapshots(destination, source, fails):
    destination.fails = fails
    disks = [dict(disk, **dict(FROZEN, snapshot_of="")) for disk in destination.wanted()]
    given = {"migration": ID, "vm": VM, "address": "10.0.0.1", "disks": json.dumps(disks)}
    with pytest.raises((MotionError, XenAPI.Failure)):
        received_history.receive_add(destination.pool, given)
    abort(destination)
    assert list(destination.vdis()) == [source]


@pytest.mark.parametrize("noted", [False, True])
def test_killed_between_making_and_noting(destination, source, noted):
    """Asked again, and aborted: what was made goes, the source stays."""
    destination.receive()
    entry = entry_of()
    changes = {} if noted else {"vdi": None, "shut": False}
    entry.entry["disks"][KEYS[1]].update(changes)
    entry.write()
    destination.receive(again="true")
    assert len(destination.vdis()) == 3 and source in destination.vdis()
    entry = entry_of()
    entry.entry["disks"][KEYS[1]].update(changes)
    entry.write()
    abort(destination)
    assert list(destination.vdis()) == [source]


def test_what_is_made_says_so_and_what_the_source_has_of_others_stays_there(destination):
    config = {"a": "b", "sxm_migration": "another", "sxm_receives": "another"}
    destination.receive(destination.wanted(other_config=config))
    for vdi in destination.vdis().values():
        assert vdi["other_config"] == dict(MADE, a="b")
        vdi["sm_config"].clear()
    for _ in range(2):
        at_destination.receive_end(destination.pool, {"migration": ID})
    assert [vdi["other_config"] for vdi in destination.vdis().values()] == [{"a": "b"}] * 2


@pytest.mark.parametrize("how", ["named", "a key"])
def test_a_disk_that_the_source_has_named_is_never_taken_away(destination, how):
    """By no mark, and by no journal: somebody may have edited either."""
    disk = add_vdi(destination.pool, destination.sr, GIB, other_config=dict(MADE))
    uuid = uuid_of(destination.pool, "VDI", disk)
    keys = [uuid, KEYS[0]] if how == "a key" else KEYS
    wanted = [dict(one, key=key) for one, key in zip(destination.wanted(), keys)]
    destination.receive(wanted, sources=json.dumps([uuid] if how == "named" else []))
    entry = entry_of()
    entry.entry["disks"][keys[1]].update(vdi=None, shut=False)
    entry.write()
    abort(destination)
    assert list(destination.vdis()) == [disk], "it was no orphan"
    destination.receive(wanted, sources=json.dumps([uuid] if how == "named" else []))
    entry = entry_of()
    entry.entry["disks"][keys[1]].update(vdi=uuid)
    entry.write()
    for _ in range(2):
        with pytest.raises(DiskOfVm, match=uuid):
            abort(destination)
    assert len(destination.vdis()) == 3, "nothing has gone"


@pytest.mark.parametrize("what", ["disk", "memory"])
@pytest.mark.parametrize("of", ["VM", "snapshot"])
def test_what_the_vm_has_is_not_taken_away_within_its_pool(destination, what, of):
    pool = destination.pool
    destination.receive()
    made = sorted(destination.vdis())[0]
    network = by_name(pool, "network", "guests")
    vm = add_vm(pool, NULL, [made] if (what, of) == ("disk", "VM") else [], network, uuid=VM)
    snapshot = add_vm(pool, NULL, [made] if (what, of) == ("disk", "snapshot") else [], network)
    having = vm if of == "VM" else snapshot
    pool.tables["VM"][vm].update(other_config=dict(CLAIMED), snapshots=[snapshot], suspend_VDI=NULL)
    pool.tables["VM"][snapshot].update(suspend_VDI=NULL)
    if what == "memory":
        pool.tables["VM"][having]["suspend_VDI"] = made
    for _ in range(2):
        with pytest.raises(DiskOfVm, match=uuid_of(pool, "VM", having)):
            abort(destination)
    assert len(destination.vdis()) == 2
    if of == "VM":
        # such a one has been brought here, and an older database has it still
        pool.tables["VM"][vm]["other_config"] = {}
    else:
        pool.tables["VM"][vm]["snapshots"] = []
    abort(destination)
    assert not destination.vdis()


@pytest.mark.parametrize("sources", ["x", '["x"]', "{}"])
def test_what_is_named_is_checked(destination, sources):
    with pytest.raises(BadArguments, match="sources"):
        destination.receive(sources=sources)
    assert not destination.vdis() and journal.all_ids(journal.RECEIVING) == []


def test_a_journal_that_names_none_is_one_all_the_same(destination):
    destination.receive()
    entry = entry_of()
    del entry.entry["sources"]
    entry.write()
    assert source_disks.named(entry_of()) == set(KEYS)
    abort(destination)
    assert not destination.vdis()
