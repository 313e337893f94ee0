# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that is made as a clone of a VDI that was there before, which is somebody's: whatever
fails or dies, that stays as it is."""

import copy

import pytest

from fake_destination import ID, KEYS, receive_renew
from fake_pool import GIB, add_vdi, add_vm, by_name, failure, uuid_of
from storage_motion.dom0 import gate_notes
from storage_motion.errors import GateOpen, ImageLeft
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import at_destination, recovery, recovery_decision
from storage_motion.sm import marks

CONFIG = {"theirs": "x", "content_id": "c"}


class Base:
    """A VDI of somebody's, and what SM and xapi do when it is cloned. `fails`: "refused" by SM,
    "away": xapi ends, and has not answered; "lost": and has not copied what its record says;
    "behind": xapi refuses what SM has done. `meanwhile`: is called when it is cloned."""

    def __init__(self, destination):
        self.destination, self.fails, self.cloned = destination, None, []
        self.meanwhile = lambda: None
        self.ref = add_vdi(
            destination.pool,
            destination.sr,
            GIB,
            name_label="theirs",
            other_config=dict(CONFIG),
            tags=["theirs"],
            allow_caching=True,
        )
        self.was = copy.deepcopy(self.record)
        destination.pool.handlers["VDI.clone"] = self.clone

    record = property(lambda self: self.destination.vdis()[self.ref])
    uuid = property(lambda self: self.record["uuid"])
    entry = property(lambda self: Journal.load(ID, journal.RECEIVING))

    def clone(self, ref, _):
        if self.fails == "refused":
            raise failure("SR_BACKEND_FAILURE_109", "", "The snapshot chain is too long")
        pool, vdi = self.destination.pool, self.destination.vdis()[ref]
        image = add_vdi(pool, vdi["SR"], managed=False, name_label="base copy")
        vdi["sm_config"] = {"vhd-parent": uuid_of(pool, "VDI", image)}
        fields = {} if self.fails == "lost" else {"tags": ["theirs"], "allow_caching": True}
        new = add_vdi(
            pool,
            vdi["SR"],
            GIB,
            name_label=vdi["name_label"],
            other_config={"content_id": "c"} if self.fails == "lost" else dict(CONFIG),
            sm_config=dict(vdi["sm_config"]),
            **fields,
        )
        self.cloned.append(new)
        self.meanwhile()
        if self.fails == "behind":
            raise failure("SR_BACKEND_FAILURE_40", "", "The SR scan failed")
        if self.fails in ("away", "lost"):
            raise failure("CANNOT_CONTACT_HOST", "x")
        return new

    def is_started(self):
        """By a VM of somebody's, on another host."""
        network = by_name(self.destination.pool, "network", "guests")
        add_vm(self.destination.pool, "OpaqueRef:other", [self.ref], network)

    def receive(self, **more):
        disk = dict(self.destination.wanted()[0], base_there=self.uuid, tags=["ours"], **more)
        return self.destination.receive([disk])["disks"][KEYS[0]]

    def abort(self):
        self.entry.write(busy=None)  # as of a process that has ended
        at_destination.receive_abort(self.destination.pool, {"migration": ID})

    def is_as_it_was(self):
        now = dict(self.record, sm_config={})
        return now == self.was

    def clones(self):
        return [ref for ref in self.cloned if ref in self.destination.vdis()]


@pytest.fixture
def base(destination):
    return Base(destination)


def test_it_arrives_as_a_clone(base):
    made = base.receive()
    (ref,) = base.clones()
    record = base.destination.vdis()[ref]
    assert made["vdi"] == record["uuid"] != base.uuid and made["no_base"] is None
    assert made["images"] == [record["uuid"], record["sm_config"]["vhd-parent"]]
    assert record["other_config"] == {"a": "b", "sxm_migration": ID, "sxm_receives": ID}
    assert (record["name_label"], record["tags"], record["allow_caching"]) == ("d", ["ours"], False)
    assert record["sm_config"]["paused"] and not record["managed"]
    assert base.is_as_it_was()


def test_all_is_taken_away_but_what_was_there(base):
    base.receive()
    base.abort()
    assert base.clones() == [] and base.is_as_it_was()
    assert journal.all_ids(journal.RECEIVING) == []


@pytest.mark.parametrize(
    "prepare, why",
    [
        (lambda base: setattr(base, "fails", "refused"), "The snapshot chain is too long"),
        (lambda base: base.record.update(cbt_enabled=True), "has changed block tracking"),
        (lambda base: base.record["sm_config"].update({"host_OpaqueRef:1": "RW"}), "is in use"),
        (lambda base: base.record.update(SR="OpaqueRef:other"), "is not in SR"),
        (lambda base: base.destination.vdis().pop(base.ref), "is not in SR"),
    ],
)
def test_where_it_cannot_be_cloned_the_disk_is_made_as_any_other(base, prepare, why):
    uuid = base.uuid
    disk = dict(base.destination.wanted()[0], base_there=uuid)
    prepare(base)
    made = base.destination.receive([disk])["disks"][KEYS[0]]
    assert why in made["no_base"] and base.clones() == [] and base.destination.count == 1
    assert made["vdi"] != uuid
    base.abort()
    assert base.destination.unnamed == []
    assert [vdi["uuid"] for vdi in base.destination.vdis().values()] in ([uuid], [])


def test_one_that_is_opened_before_the_clone_is_not_cloned(base, monkeypatch):
    """While it is looked who else has a clone of it, and the journal is written."""
    write = Journal.write_disks

    def slowly(entry, changes):
        write(entry, changes)
        if any(fields.get("cloned_from") for fields in changes.values()):
            base.is_started()

    monkeypatch.setattr(Journal, "write_disks", slowly)
    made = base.receive()
    assert "is in use" in made["no_base"] and base.cloned == [] and made["vdi"] != base.uuid
    assert base.entry.entry["disks"][KEYS[0]]["cloned_from"] is None


@pytest.mark.parametrize("several", [True, False])
def test_the_clone_of_one_that_is_opened_meanwhile_is_given_up(base, several):
    base.meanwhile = base.is_started
    if several:
        sr = base.destination.pool.tables["SR"][base.destination.sr]
        sr.update(type="lvmoiscsi", PBDs=sr["PBDs"] * 2)
        base.record["is_a_snapshot"] = True
    made = base.receive()
    assert len(base.cloned) == 1 and base.clones() == []
    (vm,) = base.destination.pool.tables["VM"].values()
    assert "was opened while it was cloned, by VM %s (web)" % vm["uuid"] in made["no_base"]
    assert ("shut it down now" in made["no_base"]) == several
    disk = base.entry.entry["disks"][KEYS[0]]
    assert disk["cloned_from"] is None and disk["vdi"] == made["vdi"] and base.record
    base.abort()
    assert list(base.destination.vdis()) == [base.ref] + [
        ref for ref, vdi in base.destination.vdis().items() if vdi["name_label"] == "base copy"
    ]


def test_what_a_clone_that_failed_has_left_is_told(base):
    base.fails = "behind"
    made = base.receive()
    (left,) = base.clones()
    uuid = uuid_of(base.destination.pool, "VDI", left)
    assert "The SR scan failed; SR " in made["no_base"] and uuid in made["no_base"]
    assert made["vdi"] not in (uuid, base.uuid)
    base.abort()
    assert base.clones() == [left], "it may be somebody's"


def test_nor_is_it_hidden_that_nobody_could_look(base):
    def busy(sr):
        raise failure("OTHER_OPERATION_IN_PROGRESS", "SR", sr)

    base.fails = "behind"
    base.destination.pool.handlers["SR.scan"] = busy
    made = base.receive()
    assert "is left is not known: OTHER_OPERATION_IN_PROGRESS" in made["no_base"]


@pytest.mark.parametrize("fails", ["away", "lost"])
def test_a_clone_that_nobody_has_told_us_of_is_told_and_stays(base, fails):
    """Somebody may just have cloned that VDI, too: nothing tells the one from the other."""
    theirs = base.clone(base.ref, {})
    base.fails = fails
    with pytest.raises(Exception, match="CANNOT_CONTACT_HOST"):
        base.receive()
    assert base.is_as_it_was() and len(base.clones()) == 2
    with pytest.raises(ImageLeft) as raised:
        base.abort()
    (told,) = raised.value.details
    named = [uuid_of(base.destination.pool, "VDI", ref) for ref in base.clones()]
    assert named[1] in told and base.uuid in told
    assert named[0] not in told, "it was there before"
    assert base.clones()[0] == theirs and base.is_as_it_was() and len(base.clones()) == 2
    assert base.destination.unnamed == [] and journal.all_ids(journal.RECEIVING) == []


def test_one_that_is_noted_and_not_marked_yet_is_taken_away(base):
    """xapi ends between the two, or has an older database."""
    base.receive()
    (ref,) = base.clones()
    base.destination.vdis()[ref]["other_config"] = dict(CONFIG)
    base.abort()
    assert base.clones() == [] and base.is_as_it_was()


def test_nor_is_one_that_a_vm_has(base):
    base.receive()
    (ref,) = base.clones()
    base.destination.vdis()[ref].update(other_config={}, VBDs=["OpaqueRef:vbd"])
    base.abort()
    assert base.clones() == [ref] and base.is_as_it_was()


def test_killed_before_it_is_noted(base):
    base.receive()
    (ref,) = base.clones()
    base.destination.vdis()[ref].update(other_config=dict(CONFIG), managed=True)
    entry = base.entry
    entry.entry["disks"][KEYS[0]].update(vdi=None, shut=False)
    entry.write()
    with pytest.raises(ImageLeft):
        base.abort()
    assert base.clones() == [ref] and base.is_as_it_was()


def test_asked_again_after_a_lost_answer_it_is_cloned_anew(base):
    base.receive()
    disk = dict(base.destination.wanted()[0], base_there=base.uuid)
    base.destination.receive([disk], again="true")
    assert len(base.cloned) == 2 and len(base.clones()) == 1 and base.is_as_it_was()


def test_the_end_leaves_what_was_there(base):
    made = base.receive()
    (ref,) = base.clones()
    base.destination.vdis()[ref]["sm_config"].pop("paused")
    base.destination.vdis()[ref]["sm_config"].pop("relinking")
    at_destination.receive_end(base.destination.pool, {"migration": ID})
    assert base.is_as_it_was() and base.clones() == [ref]
    assert base.destination.vdis()[ref]["managed"] and made["vdi"]


def recover(base):
    """The answer of a recovery at the destination, where no source comes any more."""
    entry = base.entry
    entry.write(receivers=[], busy=None)
    (answer,) = recovery.recover(base.destination.pool, {"migration": ID})["migrations"]
    return answer


@pytest.mark.parametrize("second", [False, True])
def test_half_a_gate_is_made_whole_by_a_recovery_which_takes_all_away(base, second):
    """The collector has taken `relinking`: of the clone, or of a disk on it."""
    base.receive()
    (ref,) = base.clones()
    config = base.destination.vdis()[ref]["sm_config"]
    del config[marks.RELINKING]
    if second:
        entry = base.entry
        other = dict(entry.entry["disks"][KEYS[0]])
        entry.entry["disks"][KEYS[0]]["cloned_from"] = None
        entry.entry["disks"][KEYS[1]] = dict(other, vdi=None, shut=False, base=KEYS[0])
        entry.write()
    answer = recover(base)
    assert answer["outcome"] == recovery_decision.TAKEN_BACK, answer
    assert base.clones() == [] and base.is_as_it_was()


@pytest.mark.parametrize(
    "config, noted",
    [
        ({marks.PAUSED: marks.SHUT}, True),
        ({marks.PAUSED: marks.SHUT, marks.HOST + "OpaqueRef:1": "RW"}, False),
        ({marks.PAUSED: marks.SHUT, marks.RELINKING: marks.RELINKED_BY_SM}, False),
        ({marks.PAUSED: marks.PAUSED_BY_SM}, False),
        ({}, False),
    ],
)
def test_nor_is_any_other_that_is_not_whole(base, config, noted):
    made = base.receive()
    (ref,) = base.clones()
    base.destination.vdis()[ref]["sm_config"] = dict(config)
    if noted:
        gate_notes.note(made["vdi"])
    answer = recover(base)
    assert answer["outcome"] == recovery_decision.WAITING and "the gate of" in answer["why"]
    assert base.destination.vdis()[ref]["sm_config"] == config


@pytest.mark.parametrize("left, good", [({marks.PAUSED: marks.SHUT}, True), ({}, False)])
def test_a_gate_of_which_the_collector_has_taken_its_part_is_shut(base, left, good):
    base.receive()
    (ref,) = base.clones()
    config = base.destination.vdis()[ref]["sm_config"]
    for key in ("paused", "relinking"):
        config.pop(key)
    config.update(left)
    if good:
        receive_renew(base.destination, KEYS[:1])
        assert config[marks.RELINKING] == marks.SHUT
        return
    with pytest.raises(GateOpen):
        receive_renew(base.destination, KEYS[:1])


def test_so_is_that_of_a_vdi_that_was_given_to_be_filled(base):
    """Images of others may be below that, too."""
    disk = dict(base.destination.wanted()[0], target=base.uuid)
    base.destination.receive([disk])
    config = base.record["sm_config"]
    del config[marks.RELINKING]
    receive_renew(base.destination, KEYS[:1])
    assert config[marks.RELINKING] == marks.SHUT
