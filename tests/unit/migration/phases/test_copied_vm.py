# SPDX-License-Identifier: LGPL-2.1-only
"""A VM that is copied: how the copy is known, what keeps the VM from being started meanwhile, and
that at the end both are their owners'."""

import copy
import re
import types

import pytest

from fake_migration import make_plan
from fake_pool import NULL, FakePool, add_vdi, add_vm, by_name, make_pool
from storage_motion.errors import BadMetadata, MirrorBroken, Undecided
from storage_motion.journal import handed_over
from storage_motion.migration import durable, mirror_health, unplugged_disks
from storage_motion.migration.phases import (
    arrived_vm,
    blocking,
    claim,
    copied_vm,
    receive,
    release,
    remap,
    sync,
    table,
)
from storage_motion.plan import changes, installed
from storage_motion.plan.checks import CLAIM
from storage_motion.plan.plan import Vif
from storage_motion.sm import marks
from storage_motion.switch import source_lock
from tpm_document import SECRET, UUID, with_tpm

ID = "m"
ENDING = (copied_vm.keep, copied_vm.end_there, copied_vm.let_go)
CLOSED = {"paused": "sxm m", "relinking": "sxm m"}


class Copying:
    """A halted VM with one disk that has been copied; the other pool, whose importer makes of each
    document a VM, which is there in part if `cut`."""

    id, lost = ID, False

    def __init__(self, monkeypatch):
        self.source, self.destination = make_pool("A", ["a1"]), FakePool("B")
        vdi = add_vdi(self.source, by_name(self.source, "SR", "a1-sr"), sm_config={})
        self.ref = add_vm(
            self.source,
            NULL,
            [vdi],
            by_name(self.source, "network", "guests"),
            power_state="Halted",
        )
        self.record.update(ha_restart_priority="restart")
        self.vdi = self.source.tables["VDI"][vdi]
        vbd = self.source.tables["VBD"][self.record["VBDs"][0]]
        plan = make_plan(vm=self.record["uuid"], live=False, copy=True)
        (disk,) = plan.disks
        self.one = disk._replace(key=self.vdi["uuid"], vbd=vbd["uuid"])
        self.plan = plan._replace(disks=[self.one])
        self.new = add_vdi(self.destination, "OpaqueRef:sr", uuid="d", other_config={CLAIM: ID})
        self.entry = {"disks": {self.one.key: {"destination_vdi": "d"}}, "begun": ["claim"]}
        self.receiving_host, self.cut, self.marks, self.ended, self.asked = None, [], [], [], []
        self.warned = []
        monkeypatch.setattr(durable.database, "sync", FakePool.sync)
        monkeypatch.setattr(remap, "_document", lambda s, d, p, disks, migration: migration)
        monkeypatch.setattr(remap.metadata, "bring", self._import)
        monkeypatch.setattr(remap.receiving_host, "ask", lambda *_: {"xenops": "x"})
        monkeypatch.setattr(remap.receiving_host, "base_url", lambda answer: "https://b")
        monkeypatch.setattr(remap.receiving_host, "leave", lambda *_: None)
        self.destination.add("network", uuid=self.plan.network)
        self.destination.add("pool", master=self.host())
        monkeypatch.setattr(changes, "require_none", lambda m: None)
        monkeypatch.setattr(installed, "require_again", lambda m: None)
        self.destination.handlers["VM.destroy"] = lambda ref: self.vms.pop(ref)

    record = property(lambda self: self.source.tables["VM"][self.ref])
    vms = property(lambda self: self.destination.tables.setdefault("VM", {}))

    def _import(self, session, url, document, check_cpu, copy, asked):
        assert copy, "else it would be the VM itself"
        asked("OpaqueRef:import")
        self._make(document)
        if self.cut:
            raise self.cut.pop()

    def _make(self, document=ID):
        vdi = self.destination.tables["VDI"][self.new]
        vm = self.destination.add(
            "VM",
            VTPMs=[],
            VBDs=[],
            power_state="Halted",
            resident_on=NULL,
            blocked_operations={},
            other_config={CLAIM: document},
        )
        vdi["VBDs"] = [self.destination.add("VBD", VM=vm, VDI=self.new)]

    def vm(self):
        return self.ref

    def host(self):
        return "OpaqueRef:i"

    def disk(self, key):
        return self.entry["disks"][key]

    def note(self, key=None, **fields):
        (self.entry if key is None else self.disk(key)).update(fields)

    def source_vdi(self, disk):
        return self.source.xenapi.VDI.get_by_uuid(disk.key)

    def destination_vdi(self, disk):
        return self.new

    def pulse(self, cancellable=True):
        pass

    def warn(self, text):
        self.warned.append(text)

    def plugin(self, function, **arguments):
        self.asked.append(function)

    def mover(self, key):
        def finish(mirrored):
            assert not mirrored
            self.marks.append(dict(self.vdi["sm_config"]))

        return types.SimpleNamespace(
            key=key, finish=finish, end=lambda process, command: self.ended.append(command)
        )

    def copied(self):
        """As it is when all is copied and verified."""
        claim.claim(self)
        unplugged_disks.keep_copying(self, self.one)
        unplugged_disks.keep_closed(self, self.one)


@pytest.fixture
def m(monkeypatch):
    return Copying(monkeypatch)


def test_its_phases():
    names = [phase.name for phase in table.of(make_plan(live=False, copy=True))]
    assert names == ["claim", "receive", "sync", "open", "adopt", "keep", "end-there", "let-go"]
    moved = [phase.name for phase in table.of(make_plan(live=False))]
    assert not {"open", "keep", "end-there", "let-go"} & set(moved)
    assert {"hand-over", "known", "clean-up", "end"} <= set(moved)


def test_ha_is_not_touched_and_starting_is_refused(m):
    m.copied()
    assert m.record["ha_restart_priority"] == "restart"
    assert {"start", "destroy", "revert"} <= set(m.record["blocked_operations"])
    assert m.vdi["sm_config"] == CLOSED, "whatever xapi forgets of that"
    m.source.goes_back()
    (vdi,) = m.source.tables["VDI"].values()
    assert vdi["sm_config"]["relinking"] == CLOSED["relinking"]


def test_the_gate_opens_while_the_original_is_closed(m):
    m.copied()
    copied_vm.open_disks(m)
    assert m.marks == [CLOSED] and m.disk(m.one.key)["gate"] == "open"
    assert "locked" not in m.entry, "no other host is told that anything is handed over"


def test_where_somebody_may_have_written_it_is_copied_anew(m, monkeypatch):
    m.copied()
    m.vdi["sm_config"] = {}
    with pytest.raises(MirrorBroken):
        copied_vm.open_disks(m)
    assert m.marks == []
    anew = []
    monkeypatch.setattr(mirror_health, "is_sound", lambda m, disk: True)
    monkeypatch.setattr(sync, "_END", ())
    monkeypatch.setattr(receive, "reopen", lambda m, disks: anew.extend(disks))
    m.guest_closes = lambda: None
    m.disk(m.one.key).update(state="in-sync", mover={"pid": 1})
    sync.clear_broken(m)
    assert anew == [m.one] and m.disk(m.one.key)["state"] == "broken"


def test_no_hook_refuses_the_vm_during_it_or_afterwards(m):
    disks = {m.one.key: {"gate": "open"}}
    for committed in (False, True):
        entry = {"plan": m.plan.to_json(), "disks": disks, "committed": committed}
        assert handed_over.locators(entry) == set()
        moved = dict(entry, plan=m.plan._replace(copy=False).to_json())
        assert handed_over.locators(moved) == {"s/l"}


def test_a_copy_is_known_by_its_mark_until_its_uuid_is_noted(m):
    another = m.destination.add("VM", other_config={CLAIM: "another"}, uuid=m.plan.vm)
    assert arrived_vm.find(m) is None, "nor is it the VM that has the UUID of the original"
    vm = remap.bring(m)
    assert vm != another and m.entry["new_vm"] == m.vms[vm]["uuid"]
    m.entry["new_vm"] = ""  # a worker that was killed has not noted it
    assert arrived_vm.find(m) == vm and remap.bring(m) == vm and len(m.vms) == 2
    assert m.entry["new_vm"] == m.vms[vm]["uuid"]
    arrived_vm.unmark(m, vm)
    assert CLAIM not in m.vms[vm]["other_config"] and arrived_vm.find(m) == vm


def test_what_an_import_has_left_goes_before_the_next(m):
    m.cut = [BadMetadata("cut")]
    with pytest.raises(BadMetadata):
        remap.bring(m)
    (left,) = m.vms
    vm = remap.bring(m)
    assert list(m.vms) == [vm] != [left]


def test_a_copy_of_which_only_a_part_came_back_is_made_anew(m):
    """xapi was killed, and had written its database in the middle of the import: then nothing is
    blocked yet, as that comes last."""
    m.copied()
    copied_vm.open_disks(m)
    part = remap.bring(m)
    m.vms[part]["blocked_operations"] = {}
    copied_vm.keep(m)
    (whole,) = m.vms
    assert whole != part and claim.has_blocked_arrived(m, whole)
    assert m.entry["new_vm"] == m.vms[whole]["uuid"]


def test_taken_back_no_copy_is_there(m):
    remap.bring(m)
    m.entry["new_vm"] = ""
    remap.remove(m)
    assert not m.vms and not m.entry["imported"] and not m.entry["new_vm"]


def outlives_its_worker(m, status):
    """An import has been asked for, and goes on; its task ends by `status`, if it does, once it is
    looked at again, or when what this returns is called."""
    m.note(imported=True, import_tasks=["OpaqueRef:import"])
    m.destination.tables["task"] = {"OpaqueRef:import": {"error_info": ["X"], "result": ""}}
    looks, steps = ["pending"], [m._make] if status == "success" else []

    def end():
        while steps:
            steps.pop()()

    def get_status(task):
        if looks or not status:
            return looks.pop() if looks else "pending"
        end()
        return status

    m.destination.handlers["task.get_status"] = get_status
    return end


@pytest.mark.parametrize("status", ["success", "failure"])
def test_an_import_that_outlives_its_worker_is_waited_for(m, status):
    end = outlives_its_worker(m, status)
    remap.remove(m)
    end()
    assert not m.vms and not m.entry["imported"] and not m.warned
    end = outlives_its_worker(m, status)
    vm = remap.bring(m)
    end()
    assert list(m.vms) == [vm], "and no second copy"


def test_of_an_import_that_does_not_end_the_user_is_warned(m, monkeypatch):
    monkeypatch.setattr(remap.metadata, "IMPORT_TIMEOUT", 0.0)
    outlives_its_worker(m, None)
    remap.remove(m)
    assert "sxm_migration=m in its other_config" in m.warned[0] and not m.entry["imported"]


def test_an_import_whose_xapi_has_ended_is_over(m):
    m.note(imported=True, import_tasks=["OpaqueRef:gone"])
    remap.remove(m)
    assert not m.warned and not m.entry["import_tasks"]


def test_a_copy_that_has_been_started_is_not_taken_away(m):
    m.vms[remap.bring(m)]["power_state"] = "Running"
    with pytest.raises(Undecided):
        remap.remove(m)


def test_where_the_destination_is_lost_nobody_is_asked_for_it(m):
    remap.bring(m)
    m.lost = True
    m.vms.clear()
    m.destination.handlers["VM.get_all_records"] = None
    assert arrived_vm.find_all(m) == []


@pytest.mark.parametrize("forgets", [False, True])
def test_at_the_end_both_are_as_any_others(m, monkeypatch, forgets):
    m.copied()
    copied_vm.open_disks(m)
    vm = remap.bring(m)
    m.destination.tables["VDI"][m.new].update(sm_config={}, managed=True)
    m.destination.sync()
    m.source.sync()
    if forgets:
        crashes = [m.source.goes_back, m.destination.goes_back]

        def crash_and_sync(session):
            if crashes and crashes[-1].__self__ is session and "receive-end" in m.asked:
                crashes.pop()()
            session.sync()

        monkeypatch.setattr(durable.database, "sync", crash_and_sync)
    for do in ENDING:
        do(m)
    for pool in (m.source, m.destination):
        pool.goes_back()
    if forgets:
        assert not crashes
    (vdi,) = m.source.tables["VDI"].values()
    assert m.record["blocked_operations"] == m.record["other_config"] == {}
    assert vdi["sm_config"] == vdi["other_config"] == {}
    assert m.record["ha_restart_priority"] == "restart"
    there = m.vms[vm]
    assert there["blocked_operations"] == there["other_config"] == {}
    assert m.ended == ["exit"]


def started_elsewhere(m, vm):
    m.vms[vm].update(power_state="Running", resident_on="OpaqueRef:elsewhere")


def detached(m, vm):
    m.destination.tables["VDI"][m.new].update(VBDs=[])


def destroyed_but_for_its_disks(m, vm):
    del m.vms[vm]
    m.destination.tables["VDI"][m.new].update(VBDs=[])


def destroyed(m, vm):
    del m.vms[vm]
    del m.destination.tables["VDI"][m.new]


def filled_by_another_migration(m, vm):
    m.destination.tables["VDI"][m.new].update(
        sm_config={"paused": marks.SHUT}, managed=False, other_config={CLAIM: "another"}
    )


@pytest.mark.parametrize(
    "use",
    [started_elsewhere, detached, destroyed_but_for_its_disks, destroyed]
    + [filled_by_another_migration],
)
def test_what_becomes_of_the_free_copy_keeps_nothing_from_its_end(m, monkeypatch, use):
    m.copied()
    copied_vm.open_disks(m)
    vm = remap.bring(m)
    m.destination.tables["VDI"][m.new].update(sm_config={}, managed=True)
    m.source.sync()
    copied_vm.keep(m)
    copied_vm.end_there(m)
    use(m, vm)  # the worker is killed just then
    there = copy.deepcopy(m.destination.tables)
    monkeypatch.setattr(copied_vm.whereabouts.gate, "open_again", None)
    for do in ENDING:
        do(m)
    assert m.destination.tables == there, "nor is another copy made"
    assert m.record["blocked_operations"] == m.record["other_config"] == {}
    assert m.vdi["sm_config"] == m.vdi["other_config"] == {}


def test_the_copy_is_unmarked_while_nobody_can_clone_it(m):
    m.copied()
    copied_vm.open_disks(m)
    vm = m.vms[remap.bring(m)]
    m.destination.tables["VDI"][m.new].update(sm_config={}, managed=True)
    copied_vm.keep(m)
    assert vm["other_config"] and set(vm["blocked_operations"]) == set(claim.DISTURBING)
    marked = []

    def remove(ref, operation):
        marked.append(CLAIM in vm["other_config"])
        del vm["blocked_operations"][operation]

    m.destination.handlers["VM.remove_from_blocked_operations"] = remove
    copied_vm.end_there(m)
    assert marked == [False] * len(claim.DISTURBING)


def test_once_the_original_is_being_let_go_no_recovery_locks_it_anew(m, monkeypatch):
    m.copied()

    def killed(m):
        raise KeyboardInterrupt

    monkeypatch.setattr(copied_vm.release, "release", killed)
    with pytest.raises(KeyboardInterrupt):
        copied_vm.let_go(m)
    monkeypatch.undo()
    monkeypatch.setattr(durable.database, "sync", FakePool.sync)
    claim.release(m)
    claim.put_back(m)
    assert m.record["blocked_operations"] == m.record["other_config"] == {}
    copied_vm.let_go(m)
    del m.source.tables["VM"][m.ref]  # by its user
    m.source.tables["VDI"].clear()
    copied_vm.let_go(m)


def test_the_original_is_let_go_without_the_other_pool(m):
    m.copied()
    m.destination = None
    copied_vm.let_go(m)
    assert m.record["blocked_operations"] == m.record["other_config"] == {}


def test_no_vm_that_arrives_there_is_taken_for_the_copy(m, monkeypatch):
    asked = []
    monkeypatch.setattr(receive, "_unguarded", lambda m, disks: [])
    monkeypatch.setattr(receive, "_take", lambda m, disks, answer: None)
    monkeypatch.setattr(receive, "_asked", lambda m, function, **given: asked.append(given["vm"]))
    receive.begin(m)
    m.plan = m.plan._replace(copy=False)
    receive.begin(m)
    assert asked == [ID, m.plan.vm]


def test_the_document_of_a_copy_has_the_mark(m, monkeypatch):
    monkeypatch.undo()
    source, destination = FakePool("A"), FakePool("B")
    source.add("VM", uuid="vm", VTPMs=[])
    monkeypatch.setattr(remap.metadata, "export", lambda session, ref, snapshots: with_tpm())
    for copied in (True, False):
        # of the interfaces of snapshots, which are not in it, xapi alone is asked
        plan = make_plan(vm="vm", disks=[], copy=copied, snapshot_vifs=[Vif("i", "0", "n")])
        found = remap._document(source, destination, plan, {}, ID)
        assert (b"<name>%s</name>" % CLAIM.encode() in found) == copied
        told = re.search(b"<name>ha_always_run</name>.{0,9}<value>(.*?)</value>", found, re.DOTALL)
        assert told[1] == b"<boolean>%d</boolean>" % (not copied), "no HA there starts a copy"
        rehearsed = remap._document(source, destination, plan, {}, None)
        assert CLAIM.encode() not in rehearsed


def test_the_document_of_a_copy_has_what_is_in_its_tpm(m, monkeypatch):
    """As that of a VM that moves. None but the import itself sends it."""
    monkeypatch.undo()
    source, destination = FakePool("A"), FakePool("B")
    source.add("VM", uuid="vm", VTPMs=[source.add("VTPM", uuid=UUID)])
    monkeypatch.setattr(remap.metadata, "export", lambda session, ref, snapshots: with_tpm())
    plan = make_plan(vm="vm", disks=[], copy=True)
    assert SECRET.encode() in remap._document(source, destination, plan, {}, ID)
    rehearsed = remap._document(source, destination, plan, {}, None, secrets=False)
    assert SECRET.split()[0].encode() not in rehearsed and UUID.encode() in rehearsed


def test_a_copy_has_as_many_tpms_with_other_uuids(m):
    m.record["VTPMs"] = [m.source.add("VTPM", uuid="old")]
    there = m.destination.add("VM", VTPMs=[m.destination.add("VTPM", uuid="new")])
    remap._require_tpms(m, there)
    m.vms[there]["VTPMs"] = []
    with pytest.raises(BadMetadata):
        remap._require_tpms(m, there)


def test_a_mark_that_comes_back_on_a_disk_is_taken_away_at_the_end(m):
    m.copied()
    m.disk(m.one.key)["kept"] = None
    release.release(m)
    assert m.vdi["sm_config"] == {}
    assert source_lock.begin_again(m, m.one) and release._marked(m)
    m.vdi["sm_config"] = {marks.PAUSED: marks.of_source(ID)}
    assert release._marked(m)
    assert blocking.reason(ID) not in m.record["blocked_operations"].values()
