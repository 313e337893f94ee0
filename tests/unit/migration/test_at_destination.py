# SPDX-License-Identifier: LGPL-2.1-only
"""The destination's side: what is asked for is checked, and whatever fails nothing stays."""

import json
import os
import time

import pytest
import XenAPI

from fake_destination import ID, KEYS, VM, go_back, nothing_left, open_gate
from fake_pool import GIB, add_vdi, failure, uuid_of
from full_disk import FullDisk
from storage_motion.dom0 import firewall, gate_notes
from storage_motion.errors import (
    DiskInUse,
    GateOpen,
    ImageLeft,
    JournalError,
    JournalNotWritten,
    MotionError,
    NoSuchMigration,
    ReceiverFailed,
    SmFault,
    Waits,
)
from storage_motion.journal import arrival, journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import (
    at_destination,
    received_vdis,
    receiving_calls,
    recovery_destination,
)
from storage_motion.sm import smapi
from storage_motion.sm.disks.record import Record
from storage_motion.xapi import managed


def test_it_prepares(destination, tmp_path):
    answer = destination.receive()
    assert (answer["address"], answer["port"], len(answer["token"])) == ("10.0.0.1", 4711, 64)
    assert set(answer["disks"]) == set(KEYS) and all(
        disk["blank"] for disk in answer["disks"].values()
    )
    for vdi in destination.vdis().values():
        assert vdi["other_config"] == {"a": "b", "sxm_migration": ID} and vdi["sm_config"]["paused"]
    entry = (tmp_path / "var/lib/sxm" / ("receive-%s.json" % ID)).read_text()
    assert answer["token"] not in entry
    assert (
        at_destination.receive_status(destination.pool, {"migration": ID})["disks"][KEYS[0]]["gate"]
        == "shut"
    )
    assert destination.open_ports == {4711}


@pytest.mark.parametrize(
    "fails",
    [
        "create 1",
        "create 2",
        "after create 1",
        "after create 2",
        "vdi_receive_start 1",
        "vdi_receive_start 2",
        "receiver",
        "firewall",
    ],
)
def test_whatever_fails_nothing_stays(destination, tmp_path, fails):
    destination.fails = fails
    with pytest.raises(Exception) as raised:
        destination.receive()
    assert (
        "SR_FULL" in str(raised.value)
        or "LOST" in str(raised.value)
        or isinstance(raised.value, MotionError)
    )
    assert nothing_left(destination, tmp_path)


@pytest.mark.parametrize(
    "larger, good", [(512, True), ((4 << 20) - 512, True), (4 << 20, False), (-512, False)]
)
def test_a_disk_that_sm_rounds_up_is_accepted_and_its_size_agreed(destination, larger, good):
    destination.larger = larger
    if not good:
        with pytest.raises(MotionError, match="of the %d asked for" % GIB):
            destination.receive(destination.wanted()[:1])
        return
    destination.receive(destination.wanted()[:1])
    assert [disk["size"] for disk in destination.spec["disks"].values()] == [GIB]
    renewed = {"migration": ID, "address": "10.0.0.1", "disks": json.dumps(KEYS[:1])}
    at_destination.receive_renew(destination.pool, renewed)
    assert [disk["size"] for disk in destination.spec["disks"].values()] == [GIB]


def test_the_format_that_is_asked_for_goes_to_sm(destination):
    disks = destination.wanted()
    disks[0]["image_format"] = "qcow2"
    destination.receive(disks)
    found = [vdi["sm_config"].get("image-format") for vdi in destination.vdis().values()]
    assert sorted(found, key=str) == [None, "qcow2"]


def test_on_lvm_sm_is_asked_for_no_format_and_another_one_is_not_taken(destination, tmp_path):
    destination.pool.tables["SR"][destination.sr]["type"] = "lvm"
    disks, destination.makes = destination.wanted(image_format="qcow2"), "vhd"
    with pytest.raises(ReceiverFailed, match="made vhd and not the qcow2 asked for"):
        destination.receive(disks)
    assert nothing_left(destination, tmp_path)
    destination.makes = "qcow2"
    assert len(destination.receive(disks)["disks"]) == 2


def test_abort_takes_all_away_and_may_be_repeated(destination, tmp_path):
    destination.receive()
    assert at_destination.receive_abort(destination.pool, {"migration": ID}) == {}
    assert nothing_left(destination, tmp_path)
    assert at_destination.receive_abort(destination.pool, {"migration": ID}) == {}


def test_disks_on_which_a_vm_has_run_are_never_taken_away(destination, tmp_path):
    """Its databases may have gone back since, and then every gate is shut."""
    destination.receive()
    arrival.note(ID, VM)
    for given in ({}, {"force": "true"}):
        with pytest.raises(GateOpen):
            at_destination.receive_abort(destination.pool, dict(given, migration=ID))
    with pytest.raises(Waits):
        recovery_destination.recover(destination.pool, ID, {"migration": ID})
    assert (
        len(destination.vdis()) == 2
        and at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM})["arrived"]
        is True
    )
    assert at_destination.receive_status(destination.pool, {"migration": ID})["arrived"]
    for vdi in destination.vdis().values():
        vdi["sm_config"].clear()
    at_destination.receive_end(destination.pool, {"migration": ID})
    assert arrival.read(ID) is None and os.listdir(str(tmp_path / "var/lib/sxm")) == []


def test_the_end_takes_away_the_record_of_a_finish_that_did_not_come_to_its_end(
    destination, tmp_path
):
    destination.receive()
    for vdi in destination.vdis().values():
        Record("receive", vdi["uuid"]).write({"blank": True})
        vdi["sm_config"].clear()
    at_destination.receive_end(destination.pool, {"migration": ID})
    assert os.listdir(str(tmp_path / "run/sxm/disks")) == []


def test_an_end_that_was_killed_half_way_forgets_the_arrival_when_it_comes_again(destination):
    destination.receive()
    arrival.note(ID, VM)
    Journal.load(ID, journal.RECEIVING).remove()
    assert (
        at_destination.receive_end(destination.pool, {"migration": ID}) == {}
        and arrival.read(ID) is None
    )


def test_what_was_aborted_before_it_began_does_not_begin(destination):
    for _ in range(2):
        at_destination.receive_abort(destination.pool, {"migration": ID})
    with pytest.raises(JournalError):
        destination.receive()
    assert not destination.vdis()
    assert at_destination.receive_end(destination.pool, {"migration": ID}) == {}


def test_a_refusal_is_not_remembered_for_ever(destination, monkeypatch):
    at_destination.receive_abort(destination.pool, {"migration": ID})
    monkeypatch.setattr(at_destination, "REFUSED_FOR", -1.0)
    at_destination.receive_abort(destination.pool, {"migration": ID[:-1] + "6"})
    assert journal.all_ids(journal.RECEIVING) == [ID[:-1] + "6"]


def test_abort_after_a_crash_between_making_and_noting(destination, tmp_path):
    destination.receive()
    entry = Journal.load(ID, journal.RECEIVING)
    entry.entry["disks"][KEYS[1]].update(vdi=None, shut=False)
    entry.write()
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert nothing_left(destination, tmp_path)


def test_abort_refuses_an_open_gate_unless_forced(destination, tmp_path):
    destination.receive()
    open_gate(destination)
    with pytest.raises(GateOpen):
        at_destination.receive_abort(destination.pool, {"migration": ID})
    assert len(destination.vdis()) == 2
    at_destination.receive_abort(destination.pool, {"migration": ID, "force": "true"})
    assert nothing_left(destination, tmp_path)


def test_abort_never_takes_a_disk_that_is_active(destination):
    destination.receive()
    open_gate(destination)
    for vdi in destination.vdis().values():
        vdi["sm_config"]["host_OpaqueRef:1"] = "RW"
    with pytest.raises(GateOpen):
        at_destination.receive_abort(destination.pool, {"migration": ID, "force": "true"})
    assert len(destination.vdis()) == 2


def test_abort_leaves_the_users_vdi(destination):
    target = add_vdi(destination.pool, destination.sr, GIB)
    disks = destination.wanted()[:1]
    disks[0]["target"] = uuid_of(destination.pool, "VDI", target)
    assert not destination.receive(disks)["disks"][KEYS[0]]["blank"], (
        "what is in it has to be overwritten"
    )
    at_destination.receive_abort(destination.pool, {"migration": ID})
    record = destination.vdis()[target]
    assert record["other_config"] == {} and record["sm_config"] == {} and record["managed"]


@pytest.mark.parametrize(
    "blank, sr_type, image_format, parent, holds",
    [
        (False, "ext", "qcow2", True, True),
        (True, "ext", "qcow2", True, False),
        (False, "lvm", "qcow2", False, True),
        (False, "lvm", "vhd", True, True),
        (False, "lvm", "qcow2", True, False),
    ],
)
def test_of_a_vdi_to_fill_it_says_whether_it_may_be_compared(
    destination, blank, sr_type, image_format, parent, holds
):
    """Not QCOW2 on images of others on LVM: a guest's write to a part of a cluster would read the
    rest from one that SM may have given to others."""
    pool, destination.blank = destination.pool, blank
    pool.tables["SR"][destination.sr]["type"] = sr_type
    below = uuid_of(pool, "VDI", add_vdi(pool, destination.sr, GIB, managed=False))
    config = {"image-format": image_format}
    target = add_vdi(
        pool, destination.sr, GIB, sm_config=dict(config, **{"vhd-parent": below} if parent else {})
    )
    disks = destination.wanted()
    disks[0]["target"] = uuid_of(pool, "VDI", target)
    answer = destination.receive(disks)["disks"]
    assert [answer[key]["holds"] for key in KEYS] == [holds, False], "the other is made"
    renewed = at_destination.receive_renew(pool, {"migration": ID, "disks": json.dumps(KEYS)})
    assert renewed["disks"][KEYS[0]]["holds"] is holds


def test_end(destination, tmp_path):
    destination.receive()
    with pytest.raises(MotionError):
        at_destination.receive_end(destination.pool, {"migration": ID})
    open_gate(destination)
    for _ in range(2):
        at_destination.receive_end(destination.pool, {"migration": ID})
    assert (
        all(vdi["other_config"] == {"a": "b"} for vdi in destination.vdis().values())
        and len(destination.vdis()) == 2
    )
    assert journal.all_ids(journal.RECEIVING) == [] and not (tmp_path / "run/sxm" / ID).exists()


def unmanaged(destination):
    """How many disks xapi does not manage. No session is left behind by whoever said so."""
    assert not destination.pool.tables.get("session")
    return sum(not vdi["managed"] for vdi in destination.vdis().values())


def test_until_the_vm_has_it_a_disk_is_nobody_elses(destination):
    destination.receive()
    assert unmanaged(destination) == 2
    open_gate(destination)
    assert unmanaged(destination) == 2, "who opens a gate does not give the disk to everybody"
    for _ in range(2):
        assert (
            at_destination.receive_give(destination.pool, {"migration": ID}) == {}
            and unmanaged(destination) == 0
        )
    at_destination.receive_end(destination.pool, {"migration": ID})
    assert at_destination.receive_give(destination.pool, {"migration": ID}) == {}, (
        "and when it is known no more"
    )


def test_a_disk_is_made_with_the_tags_and_the_caching_of_its_source(destination):
    first, second = destination.wanted()
    destination.receive(disks=[dict(first, tags=["gold", "web"], allow_caching=True), second])
    made = [(vdi["tags"], vdi.get("allow_caching", False)) for vdi in destination.vdis().values()]
    assert sorted(made) == [([], False), (["gold", "web"], True)]


def test_at_the_end_a_disk_is_managed_whatever_an_older_database_says(destination):
    destination.receive()
    destination.pool.sync()
    at_destination.receive_give(destination.pool, {"migration": ID})
    destination.pool.goes_back()
    open_gate(destination)
    assert unmanaged(destination) == 2
    at_destination.receive_end(destination.pool, {"migration": ID})
    assert len(destination.vdis()) == 2 and unmanaged(destination) == 0


@pytest.mark.parametrize(
    "busy",
    [{"current_operations": {"OpaqueRef:task": "copy"}}, {"VBDs": ["OpaqueRef:vbd"]}],
    ids=["copied", "attached"],
)
def test_who_has_begun_with_a_disk_before_is_waited_for(destination, tmp_path, monkeypatch, busy):
    """As `xe vdi-copy` of one that has just been made. It ends, or nothing is received."""
    create = destination.pool.handlers["VDI.create"]

    def made(record):
        vdi = create(record)
        destination.vdis()[vdi].update(busy)
        return vdi

    destination.pool.handlers["VDI.create"] = made
    monkeypatch.setattr(received_vdis, "OTHERS_TIMEOUT", 0.0)
    with pytest.raises(DiskInUse) as raised:
        destination.receive()
    assert ("copy" if "VBDs" not in busy else "VBD OpaqueRef:vbd") in str(
        raised.value
    ) and nothing_left(destination, tmp_path)
    looks = []

    def done(vdi):
        looks.append(vdi)
        record = dict(destination.vdis()[vdi])
        return dict(record, current_operations={}, VBDs=[]) if len(looks) > 2 else record

    monkeypatch.setattr(received_vdis, "OTHERS_TIMEOUT", 5.0)
    destination.pool.handlers["VDI.get_record"] = done
    assert destination.receive()["port"] == 4711 and unmanaged(destination) == 2


def test_where_a_disk_cannot_be_kept_from_others_nothing_is_received(
    destination, tmp_path, monkeypatch
):
    def refuse(sr, vdi, value):
        raise failure("PERMISSION_DENIED", "")

    monkeypatch.setattr(managed, "set_managed", refuse)
    with pytest.raises(XenAPI.Failure, match="PERMISSION_DENIED"):
        destination.receive()
    assert nothing_left(destination, tmp_path) and "vdi_receive_start" not in destination.sm_calls


def test_the_user_has_his_disk_back_if_it_was_killed_before_the_gate_was_shut(destination):
    target = add_vdi(destination.pool, destination.sr, GIB)
    disks = destination.wanted()[:1]
    disks[0]["target"] = uuid_of(destination.pool, "VDI", target)
    destination.receive(disks)
    entry = Journal.load(ID, journal.RECEIVING)
    entry.entry["disks"][KEYS[0]].update(shut=False)
    entry.write(receivers=[])
    open_gate(destination)
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert (
        destination.vdis()[target]["managed"] and destination.vdis()[target]["other_config"] == {}
    )


def test_asked_again_it_begins_anew(destination, tmp_path):
    """The source does not know what has come of the first call: it has answered to nobody."""
    before = destination.receive()
    after = destination.receive(again="true")
    assert {disk["vdi"] for disk in after["disks"].values()} == {
        vdi["uuid"] for vdi in destination.vdis().values()
    }
    assert after["token"] != before["token"]
    assert {disk["vdi"] for disk in after["disks"].values()}.isdisjoint(
        {disk["vdi"] for disk in before["disks"].values()}
    )
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert nothing_left(destination, tmp_path)


def test_asked_again_after_a_call_that_was_killed_it_leaves_nothing_of_that(destination):
    destination.fails = "after create 2"
    with pytest.raises(Exception, match="LOST"), pytest.MonkeyPatch.context() as held:
        held.setattr(at_destination, "_undo", lambda session, entry: ())
        held.setattr(receiving_calls, "myself", lambda: None)  # its process is gone
        destination.receive()
    assert len(destination.vdis()) == 2
    destination.fails = None
    after = destination.receive(again="true")
    assert {disk["vdi"] for disk in after["disks"].values()} == {
        vdi["uuid"] for vdi in destination.vdis().values()
    }


def test_asked_again_where_nothing_was_asked_it_simply_begins(destination):
    assert destination.receive(again="true")["port"] == 4711


def test_asked_again_it_takes_away_no_disk_whose_gate_was_opened(destination):
    destination.receive()
    open_gate(destination)
    with pytest.raises(GateOpen):
        destination.receive(again="true")
    assert len(destination.vdis()) == 2


def test_asked_again_it_takes_away_what_an_older_database_lets_others_to(destination, tmp_path):
    """That gate was never opened: nothing of the VM has used the disk."""
    before = destination.receive()
    go_back(destination)
    after = destination.receive(again="true")
    assert {disk["vdi"] for disk in after["disks"].values()}.isdisjoint(
        {disk["vdi"] for disk in before["disks"].values()}
    )
    assert {disk["vdi"] for disk in after["disks"].values()} == {
        vdi["uuid"] for vdi in destination.vdis().values()
    }


@pytest.mark.parametrize("call", ["again", "abort"])
def test_of_a_disk_of_the_users_an_older_database_knows_nothing_of_us(destination, call):
    target = add_vdi(destination.pool, destination.sr, GIB)
    disks = destination.wanted()[:1]
    disks[0]["target"] = uuid_of(destination.pool, "VDI", target)
    destination.receive(disks)
    destination.vdis()[target].update(sm_config={}, other_config={}, managed=True)
    destination.sm_calls = []
    if call == "again":
        destination.receive(disks, again="true")
        assert destination.sm_calls == ["vdi_receive_abort", "vdi_receive_start"], (
            "the tapdisk of the former call is closed"
        )
        assert (
            destination.vdis()[target]["other_config"] == {"sxm_migration": ID}
            and not destination.vdis()[target]["managed"]
        )
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert destination.sm_calls[-1] == "vdi_receive_abort"
    record = destination.vdis()[target]
    assert record["other_config"] == {} and record["sm_config"] == {} and record["managed"]


def test_a_refusal_holds_though_it_is_asked_again(destination):
    at_destination.receive_abort(destination.pool, {"migration": ID})
    with pytest.raises(MotionError, match="exists"):
        destination.receive(again="true")
    assert destination.vdis() == {}


def test_each_disk_that_is_not_tracked_is_told(destination, monkeypatch):
    whys = {KEYS[0]: "no room", KEYS[1]: None}
    asked = []

    def begin(session, uuid):
        asked.append((session, uuid))
        return whys[uuid]

    monkeypatch.setattr(at_destination.tracking, "begin", begin)
    answer = at_destination.receive_track(
        destination.pool, {"migration": ID, "vdis": json.dumps(KEYS)}
    )
    assert answer == {"failed": {KEYS[0]: "no room"}}
    assert asked == [(destination.pool, key) for key in KEYS]


def test_one_at_a_time(destination):
    destination.receive()
    with pytest.raises(MotionError):
        destination.receive()
    assert len(destination.vdis()) == 2, "the first one's disks stay"


@pytest.mark.parametrize(
    "function",
    [
        at_destination.receive,
        at_destination.receive_status,
        at_destination.receive_abort,
        at_destination.receive_end,
    ],
)
def test_an_id_that_is_none(destination, function):
    with pytest.raises(NoSuchMigration):
        function(destination.pool, {"migration": "../../etc", "disks": "[]"})


def test_a_disk_that_could_never_be_opened_goes_and_the_first_error_is_told(
    destination, tmp_path, monkeypatch
):
    """As where the driver does not load: it can neither open the disk nor say that it is closed."""

    def broken(session, sr, command, vdi_ref=None, args=(), timeout=None):
        raise SmFault(
            command,
            None,
            "cannot be loaded: the %s one"
            % ("first" if command == "vdi_receive_start" else "second"),
        )

    monkeypatch.setattr(smapi, "call", broken)
    with pytest.raises(SmFault) as raised:
        destination.receive()
    assert "the first one" in str(raised.value) and nothing_left(destination, tmp_path)


def test_one_that_may_be_open_stays_and_the_first_error_is_told_all_the_same(destination, tmp_path):
    real = destination.sm

    def stuck(session, sr, command, **more):
        if command == "vdi_receive_abort":
            raise SmFault(command, 485, "the tapdisk does not exit")
        return real(session, sr, command, **more)

    destination.fails = "vdi_receive_start 2"
    smapi.call, before = stuck, smapi.call
    try:
        with pytest.raises(SmFault) as raised:
            destination.receive()
        assert raised.value.fault == 482 and len(destination.vdis()) == 1, (
            "what was not opened has gone"
        )
        assert not (tmp_path / "run/sxm" / ID).exists(), "secrets go in every end"
        entry = Journal.load(ID, journal.RECEIVING)
        entry.write(busy=None)  # this process goes on, other than a plugin's
        with pytest.raises(SmFault):
            at_destination.receive_abort(destination.pool, {"migration": ID})
    finally:
        smapi.call = before
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert nothing_left(destination, tmp_path)


@pytest.mark.parametrize("end", [at_destination.receive_abort, at_destination.receive_end])
def test_no_secret_stays_whatever_else_does(destination, tmp_path, monkeypatch, end):
    """The receiver's token. What could not be done is done when it is asked for again."""
    destination.receive()
    assert "receive1.json" in os.listdir(str(tmp_path / "run/sxm" / ID))
    if end is at_destination.receive_end:
        open_gate(destination)

    def stuck(*_):
        raise MotionError("the port cannot be closed")

    with monkeypatch.context() as held:
        held.setattr(firewall, "close_port", stuck)
        with pytest.raises(MotionError, match="the port"):
            end(destination.pool, {"migration": ID})
    names = os.listdir(str(tmp_path / "run/sxm" / ID))
    assert not [name for name in names if name.endswith(".json")]
    end(destination.pool, {"migration": ID})
    assert journal.all_ids(journal.RECEIVING) == [] and not (tmp_path / "run/sxm" / ID).exists()


RECEIVING_WRITES = 10  # to begin, three for each disk, the receiver, its port, that all is done


@pytest.mark.parametrize("left", range(RECEIVING_WRITES + 1))
def test_a_journal_that_cannot_be_written(destination, tmp_path, monkeypatch, left):
    """Nothing is made that is not noted, and all of it goes again as far as that can be noted; the
    rest when there is room."""
    disk = FullDisk(monkeypatch)
    disk.left = left
    if left == RECEIVING_WRITES:
        destination.receive()
        assert disk.left == 0
    else:
        with pytest.raises(JournalNotWritten):
            destination.receive()
        assert not destination.vdis() or Journal.load(ID, journal.RECEIVING)
    disk.left = None
    for known in journal.all_ids(journal.RECEIVING):
        Journal.load(known, journal.RECEIVING).write(busy=None)
        at_destination.receive_abort(destination.pool, {"migration": ID})
    assert nothing_left(destination, tmp_path)


def test_an_image_that_a_killed_command_has_left_is_looked_for(destination, tmp_path):
    """Only where a VDI was to be made that is not there, and by all that is known of it."""
    destination.receive()
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert destination.unnamed == [], "both are there, and are destroyed"
    destination.count, destination.fails = 0, "create 2"
    begun = time.time()
    with pytest.raises(XenAPI.Failure):
        destination.receive()
    ((sr, (size, since)),) = destination.unnamed
    assert (
        (sr, size) == (destination.sr, str(GIB))
        and begun <= float(since) <= time.time()
        and nothing_left(destination, tmp_path)
    )


def test_one_that_cannot_be_told_for_sure_stays_and_is_told_once(destination, tmp_path):
    destination.unprovable, destination.fails = True, "create 1"
    with pytest.raises(XenAPI.Failure) as raised:
        destination.receive()
    assert raised.value.details == ["SR_FULL"], "the first error"
    # this process goes on, other than a plugin's
    Journal.load(ID, journal.RECEIVING).write(busy=None)
    with pytest.raises(ImageLeft) as told:
        at_destination.receive_abort(destination.pool, {"migration": ID})
    assert (
        uuid_of(destination.pool, "SR", destination.sr) in told.value.details[0]
        and str(GIB) in told.value.details[0]
    )
    assert at_destination.receive_abort(destination.pool, {"migration": ID}) == {}


def test_what_this_host_has_noted_of_its_gates_is_told_and_forgotten_with_the_migration(
    destination, tmp_path
):
    """A xapi that has gone back has both gates shut."""
    answer = destination.receive()
    first, second = sorted(KEYS)
    gate_notes.note(answer["disks"][first]["vdi"])
    assert at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM}) == {
        "arrived": False,
        "opened": [first],
    }
    at_destination.receive_abort(destination.pool, {"migration": ID, "force": "true"})
    assert not gate_notes.noted(answer["disks"][first]["vdi"]) and nothing_left(
        destination, tmp_path
    )


def test_a_disk_whose_record_xapi_has_lost_is_found_and_taken_away(destination, tmp_path):
    answer = destination.receive()
    uuid = answer["disks"][KEYS[0]]["vdi"]
    ref = destination.pool.xenapi.VDI.get_by_uuid(uuid)
    image = destination.vdis().pop(ref)
    scanned = []

    def scan(sr):
        scanned.append(sr)
        destination.vdis()[ref] = dict(image, other_config={}, sm_config={})

    destination.pool.handlers["SR.scan"] = scan
    at_destination.receive_abort(destination.pool, {"migration": ID, "force": "true"})
    assert scanned == [destination.sr] and nothing_left(destination, tmp_path)


def test_a_disk_that_has_no_mark_any_more_is_not_taken_away(destination, tmp_path):
    """As one of a migration that has ended, whose journal is still there."""
    answer = destination.receive()
    uuid = answer["disks"][KEYS[0]]["vdi"]
    del destination.vdis()[destination.pool.xenapi.VDI.get_by_uuid(uuid)]["other_config"][
        "sxm_migration"
    ]
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert [vdi["uuid"] for vdi in destination.vdis().values()] == [uuid]
