# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of snapshots at the destination: made one after the other, each as a clone of the one
that it is based on; kept when they are whole; and found again, whoever was killed."""

import json

import pytest

from fake_destination import ID, KEYS, VM, nothing_left
from fake_pool import GIB, NULL, add_vdi, failure, uuid_of
from storage_motion.dom0 import gate_notes
from storage_motion.errors import BadArguments, ImageLeft, MotionError, ReceiverFailed, TakenAway
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import (
    at_destination,
    received_history,
    received_snapshots,
    recovery,
    recovery_decision,
)
from storage_motion.xapi import managed

DEAD = {"pid": 1, "started": -1}
TIME = "20260102T03:04:05Z"
FROZEN = {"frozen": True, "snapshot_time": TIME, "snapshot_of": KEYS[1]}


class Chain:
    """A destination that receives the disk of a snapshot, and then the VM's, as a clone of it."""

    def __init__(self, destination):
        self.destination, self.cloned = destination, 0
        destination.pool.handlers["VDI.clone"] = self.clone

    def clone(self, ref, _):
        vdi = self.destination.vdis()[ref]
        assert vdi["managed"], "xapi clones nothing else"
        self.cloned += 1
        image = add_vdi(self.destination.pool, vdi["SR"], managed=False, name_label="base copy")
        vdi["sm_config"]["vhd-parent"] = uuid_of(self.destination.pool, "VDI", image)
        lost = self.destination.fails == "clone"
        new = add_vdi(
            self.destination.pool,
            vdi["SR"],
            int(vdi["virtual_size"]),
            other_config={"content_id": "c"} if lost else dict(vdi["other_config"]),
            allow_caching=vdi.get("allow_caching", False) and not lost,
            sm_config={"vhd-parent": vdi["sm_config"]["vhd-parent"]},
        )
        if lost:
            raise failure("HANDLE_INVALID", "session", "x")
        return new

    def add(self, disk, **more):
        return received_history.receive_add(
            self.destination.pool,
            dict(
                {"migration": ID, "vm": VM, "address": "10.0.0.1", "disks": json.dumps([disk])},
                **more,
            ),
        )

    def first(self):
        return self.add(self.destination.wanted(**FROZEN)[0])

    def second(self, **changes):
        return self.add(dict(self.destination.wanted(base=KEYS[0])[1], **changes))

    def finish(self, key):
        vdi = self.entry["disks"][key]["vdi"]
        gate_notes.note(vdi)
        self.record(key)["sm_config"].pop("paused")
        self.record(key)["sm_config"].pop("relinking")

    def keep(self, *keys):
        return received_history.receive_keep(
            self.destination.pool, {"migration": ID, "disks": json.dumps(list(keys))}
        )

    @property
    def entry(self):
        return Journal.load(ID, journal.RECEIVING).entry

    def record(self, key):
        pool = self.destination.pool
        return self.destination.vdis()[pool.xenapi.VDI.get_by_uuid(self.entry["disks"][key]["vdi"])]


@pytest.fixture
def chain(destination):
    return Chain(destination)


def kept(chain):
    chain.first()
    chain.finish(KEYS[0])
    chain.keep(KEYS[0])
    return chain


def test_one_after_the_other(chain):
    answer = chain.first()
    assert list(answer["disks"]) == [KEYS[0]] and not chain.record(KEYS[0])["managed"]
    # from its begin, so that SM gives back the room of its volume when it is closed
    assert chain.record(KEYS[0])["is_a_snapshot"]
    chain.finish(KEYS[0])
    chain.keep(KEYS[0])
    chain.keep(KEYS[0])
    answer = chain.second(name_label="mine", other_config={"c": "d"})
    record = chain.record(KEYS[1])
    assert (record["name_label"], record["other_config"]) == (
        "mine",
        {"c": "d", "sxm_migration": ID, "sxm_receives": ID},
    )
    assert not record["is_a_snapshot"] and not record["managed"] and record["sm_config"]["paused"]
    assert not chain.record(KEYS[0])["managed"], "only while it is cloned"
    assert chain.cloned == 1
    assert chain.destination.spec["disks"].keys() == {KEYS[1]}
    assert len(chain.entry["receivers"]) == 2 and chain.entry["receivers"][0]["keys"] == []


def test_a_clone_is_cached_as_its_source_is_and_not_as_its_base(chain):
    chain.add(dict(chain.destination.wanted(**FROZEN)[0], allow_caching=True))
    chain.finish(KEYS[0])
    chain.keep(KEYS[0])
    chain.second()
    assert [chain.record(key)["allow_caching"] for key in KEYS] == [True, False]


def test_the_disks_are_given(chain):
    kept(chain).second()
    at_destination.receive_give(chain.destination.pool, {"migration": ID})
    at_destination.receive_give(chain.destination.pool, {"migration": ID})
    first, second = chain.record(KEYS[0]), chain.record(KEYS[1])
    assert first["managed"] and second["managed"] and first["is_a_snapshot"]
    assert str(first["snapshot_time"]) == TIME
    ref = chain.destination.pool.xenapi.VDI.get_by_uuid(second["uuid"])
    assert first["snapshot_of"] == ref and second["snapshot_of"] == NULL


def test_one_that_somebody_has_destroyed_since_hinders_no_end(chain, tmp_path):
    kept(chain).second()
    pool = chain.destination.pool
    at_destination.receive_give(pool, {"migration": ID})
    chain.finish(KEYS[1])
    pool.xenapi.VDI.destroy(pool.xenapi.VDI.get_by_uuid(chain.entry["disks"][KEYS[0]]["vdi"]))
    at_destination.receive_give(pool, {"migration": ID})
    at_destination.receive_end(pool, {"migration": ID})
    assert journal.all_ids(journal.RECEIVING) == []


def test_what_is_not_finished_is_not_kept(chain):
    chain.first()
    with pytest.raises(ReceiverFailed, match="is not finished"):
        chain.keep(KEYS[0])
    with pytest.raises(BadArguments, match="is not kept"):
        chain.second()
    assert list(chain.entry["disks"]) == [KEYS[0]]


def test_a_disk_of_the_vm_is_never_kept(chain):
    kept(chain).second()
    gate_notes.note(chain.entry["disks"][KEYS[1]]["vdi"])
    with pytest.raises(ReceiverFailed):
        chain.keep(KEYS[1])


@pytest.mark.parametrize("fails", ["clone", "vdi_receive_start 2", "receiver"])
def test_what_fails_leaves_what_is_kept_and_may_be_asked_again(chain, fails):
    kept(chain)
    chain.destination.fails = fails
    with pytest.raises((MotionError, Exception)):
        chain.second()
    assert list(chain.entry["disks"]) == [KEYS[0]] and chain.entry["busy"] is None
    named = [vdi for vdi in chain.destination.vdis().values() if vdi["managed"]]
    assert named == [], "a clone that nobody knows is left"
    assert not chain.record(KEYS[0])["managed"]
    chain.destination.fails = None
    chain.second()
    assert chain.cloned == 2


def test_asked_again_after_a_lost_answer_it_is_made_anew(chain):
    kept(chain).second()
    before = chain.entry["disks"][KEYS[1]]["vdi"]
    chain.second()
    assert chain.entry["disks"][KEYS[1]]["vdi"] != before
    assert before not in [vdi["uuid"] for vdi in chain.destination.vdis().values()]


def test_all_is_taken_away_though_a_gate_has_been_opened(chain, tmp_path):
    """It is that of the disk of a snapshot, on which no VM runs."""
    kept(chain).second()
    status = at_destination.receive_stop(chain.destination.pool, {"migration": ID, "vm": VM})
    assert status == {"arrived": False, "opened": []}
    at_destination.receive_abort(chain.destination.pool, {"migration": ID})
    for ref, vdi in list(chain.destination.vdis().items()):
        assert vdi["name_label"] == "base copy"  # SM's collector's
        del chain.destination.vdis()[ref]
    assert nothing_left(chain.destination, tmp_path)


@pytest.mark.parametrize("based", [False, True])
def test_what_a_recovery_here_has_taken_back_is_not_received_further(chain, based):
    """By hand, between two disks, when no receiver of it runs: a journal that begins anew would
    lack what the source counts on."""
    kept(chain)
    counted = json.dumps([KEYS[0]])
    wanted = chain.destination.wanted(**({"base": KEYS[0]} if based else {}))[1]
    pool = chain.destination.pool
    entry = Journal.load(ID, journal.RECEIVING)
    entry.write(receivers=[dict(one, process=DEAD) for one in entry.entry["receivers"]])
    (answer,) = recovery.recover(pool, {"migration": ID})["migrations"]
    assert answer["outcome"] == recovery_decision.TAKEN_BACK
    before = dict(chain.destination.vdis())
    with pytest.raises(TakenAway) as raised:
        chain.add(wanted, kept=counted)
    assert raised.value.failure()[:2] == ["SXM_TAKEN_AWAY", ID] and KEYS[0] in str(raised.value)
    assert journal.all_ids(journal.RECEIVING) == [] and chain.destination.vdis() == before
    # so does one that is told to take back what the source itself begins anew
    at_destination.receive_abort(pool, {"migration": ID})
    with pytest.raises(TakenAway):
        chain.add(wanted, kept=counted)


def test_what_is_kept_is_found_to_be(chain):
    kept(chain)
    wanted = chain.destination.wanted(base=KEYS[0])[1]
    with pytest.raises(BadArguments, match="kept"):
        chain.add(wanted, kept="all")
    chain.add(wanted, kept=json.dumps([KEYS[0]]))
    with pytest.raises(TakenAway, match=KEYS[1]):
        chain.add(wanted, kept=json.dumps([KEYS[1]]))  # it is there, and not kept


def test_others_disks_are_not_taken_for_a_lost_clone(chain):
    kept(chain).second()
    parent = chain.record(KEYS[0])["sm_config"]["vhd-parent"]
    sr, pool = chain.destination.sr, chain.destination.pool
    theirs = [
        add_vdi(pool, sr, sm_config={"vhd-parent": parent}, **fields)
        for fields in (
            {"other_config": {"mine": ""}},
            {"VBDs": ["OpaqueRef:vbd"]},
            {"is_a_snapshot": True},
            {"snapshot_of": "OpaqueRef:x"},
            {"managed": False},
        )
    ] + [add_vdi(pool, sr)]
    entry = Journal.load(ID, journal.RECEIVING)
    received_snapshots.destroy_lost(pool, entry, entry.entry["disks"][KEYS[1]])
    assert set(theirs) <= set(chain.destination.vdis())


@pytest.mark.parametrize("shares", [True, False], ids=["shared", "own image"])
def test_somebodys_vdi_that_the_chain_stands_on_is_not_taken_for_a_lost_clone(chain, shares):
    """The first disk is a clone of it, and xapi may know no more of it than of a lost clone. Nor
    does anything tell a clone of it from one of that disk where SM puts both on one image."""
    pool, sr = chain.destination.pool, chain.destination.sr
    config = {"content_id": "c"}
    theirs = add_vdi(pool, sr, GIB, other_config=dict(config))
    named = {"base_there": uuid_of(pool, "VDI", theirs)}
    chain.add(chain.destination.wanted(**dict(FROZEN, **named))[0])
    chain.finish(KEYS[0])
    chain.keep(KEYS[0])
    image = chain.record(KEYS[0])["sm_config"]["vhd-parent"]
    assert chain.destination.vdis()[theirs]["sm_config"]["vhd-parent"] == image

    def fails(ref, _):
        if not shares:
            own = uuid_of(pool, "VDI", add_vdi(pool, sr, managed=False, name_label="base copy"))
            chain.destination.vdis()[ref]["sm_config"]["vhd-parent"] = own
        stands_on = chain.destination.vdis()[ref]["sm_config"]["vhd-parent"]
        lost.append(
            add_vdi(pool, sr, GIB, other_config=dict(config), sm_config={"vhd-parent": stands_on})
        )
        raise failure("HANDLE_INVALID", "session", "x")

    lost = []
    pool.handlers["VDI.clone"] = fails
    with pytest.raises(Exception, match="HANDLE_INVALID"):
        chain.second()
    assert theirs in chain.destination.vdis(), "somebody's disk is destroyed"
    assert (lost[0] in chain.destination.vdis()) == shares
    if not shares:
        at_destination.receive_abort(pool, {"migration": ID})
    else:
        with pytest.raises(ImageLeft) as raised:
            at_destination.receive_abort(pool, {"migration": ID})
        (told,) = raised.value.details
        assert "VDI %s may be a clone" % uuid_of(pool, "VDI", lost[0]) in told
    assert theirs in chain.destination.vdis()


def test_somebodys_vdi_on_an_image_that_sm_has_merged_since_is_not_taken_for_a_lost_clone(chain):
    """It stood on the image that the chain shares, and so on another one than before, as if SM had
    put a new one below the base."""
    pool, sr, config = chain.destination.pool, chain.destination.sr, {"content_id": "c"}
    theirs = add_vdi(pool, sr, GIB, other_config=dict(config))
    vdis = chain.destination.vdis()
    named = {"base_there": uuid_of(pool, "VDI", theirs)}
    chain.add(chain.destination.wanted(**dict(FROZEN, **named))[0])
    chain.finish(KEYS[0])
    chain.keep(KEYS[0])
    merged = chain.record(KEYS[0])["sm_config"]["vhd-parent"]
    into = uuid_of(pool, "VDI", add_vdi(pool, sr, managed=False, name_label="base copy"))
    vdis[pool.xenapi.VDI.get_by_uuid(merged)]["sm_config"]["vhd-parent"] = into
    another = add_vdi(
        pool, sr, GIB, other_config=dict(config), sm_config={"vhd-parent": merged}, VBDs=["in use"]
    )

    def fails(ref, _):
        del vdis[pool.xenapi.VDI.get_by_uuid(merged)]
        for vdi in vdis.values():
            if vdi["sm_config"].get("vhd-parent") == merged:
                vdi["sm_config"]["vhd-parent"] = into
        vdis[another]["VBDs"] = []
        raise failure("HANDLE_INVALID", "session", "x")

    pool.handlers["VDI.clone"] = fails
    with pytest.raises(Exception, match="HANDLE_INVALID"):
        chain.second()
    assert {theirs, another} <= set(vdis), "somebody's disk is destroyed"
    with pytest.raises(ImageLeft) as raised:
        at_destination.receive_abort(pool, {"migration": ID})
    (told,) = raised.value.details
    assert "VDI %s may be a clone" % uuid_of(pool, "VDI", another) in told
    assert {theirs, another} <= set(vdis)


def test_a_lost_clone_is_looked_for_when_sm_has_relinked_it(chain, monkeypatch):
    """In the midst of that it is not on the image that its base is on."""
    monkeypatch.setattr(received_snapshots, "RELINK_POLL", 0)
    kept(chain)
    pool, sr, vdis = chain.destination.pool, chain.destination.sr, chain.destination.vdis()
    base = chain.record(KEYS[0])
    looks = []

    def image(**config):
        made = add_vdi(pool, sr, managed=False, name_label="base copy", sm_config=config)
        return uuid_of(pool, "VDI", made)

    def fails(ref, _):
        below = image()
        own = image(**{"vhd-parent": below})
        lost.append(
            add_vdi(
                pool, sr, GIB, other_config={"content_id": "c"}, sm_config={"vhd-parent": below}
            )
        )
        base["sm_config"].update({"vhd-parent": own, "relinking": "True"})
        pool.handlers["VDI.get_record"] = lambda ref: look(ref, below)
        raise failure("HANDLE_INVALID", "session", "x")

    def look(ref, below):
        looks.append(ref)
        if len(looks) == 20:
            base["sm_config"].update({"vhd-parent": below})
            del base["sm_config"]["relinking"]
        return dict(pool.get("VDI", ref))

    lost = []
    pool.handlers["VDI.clone"] = fails
    with pytest.raises(Exception, match="HANDLE_INVALID"):
        chain.second()
    assert lost[0] not in vdis and len(looks) > 20


def test_only_a_session_of_a_driver_says_what_a_snapshot_is(destination):
    vdi = add_vdi(destination.pool, destination.sr)
    with managed.as_driver(destination.sr) as driver:
        driver.xenapi.VDI.set_is_a_snapshot(vdi, True)
    assert destination.vdis()[vdi]["is_a_snapshot"] and not destination.pool.tables["session"]
    with managed.as_driver("OpaqueRef:other") as driver, pytest.raises(Exception, match="DENIED"):
        driver.xenapi.VDI.set_is_a_snapshot(vdi, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "x"},
        {"snapshot_of": "x"},
        {"frozen": True},
        {"frozen": True, "snapshot_time": "now"},
        {"base": KEYS[1], "target": KEYS[1]},
        {"frozen": "yes"},
    ],
)
def test_what_is_asked_for_is_checked(destination, changes):
    with pytest.raises(BadArguments):
        destination.receive(destination.wanted(**changes)[:1])
    assert not destination.vdis()
