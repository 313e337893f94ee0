# SPDX-License-Identifier: LGPL-2.1-only
"""Within its pool a suspended VM keeps its VBDs, as does its checkpoint: xapi's database is told
which disks they have, and nothing of the source goes before that is on disk."""

import json
import types

import pytest

from fake_migration import ID, FakeTask, make_plan
from fake_pool import NULL, add_vdi, add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.errors import FieldNotWritten, MirrorBroken, NotDurable, Undecided
from storage_motion.journal import steps
from storage_motion.journal.journal import Journal
from storage_motion.migration import (
    known_at_destination,
    migration,
    recovery_decision,
    recovery_source,
    run,
)
from storage_motion.migration.phases import (
    adopt,
    cleanup,
    history,
    messages,
    remap,
    statistics,
    table as phases,
)
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi import database, database_fields


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))


KEPT = {"disk": "VBD", "memory": "VM", "disk of s": "VBD", "memory of s": "VM"}


class Asleep:
    """A suspended VM `vm` with a disk, an image of its memory, and the checkpoint `s` with both;
    `old`, `new`: {one of KEPT: the ref of its VDI}. `crashes`: at which of the syncs of its
    database xapi is killed before anything is on disk. `unsafe`: what was destroyed while the
    database on disk still named it."""

    id, lost, fails = ID, False, None

    def __init__(self, monkeypatch, crashes=()):
        self.pool = self.source = self.destination = pool = make_pool("A", ["a1"])
        self.crashes, self.unsafe, self.entry, self.noted = set(crashes), [], {}, {}
        sr = by_name(pool, "SR", "a1-sr")
        kinds = {name: "suspend" if name in ("memory", "memory of s") else "user" for name in KEPT}
        self.old = {name: add_vdi(pool, sr, type=kind) for name, kind in kinds.items()}
        self.new = {
            name: add_vdi(pool, sr, type=kind, is_a_snapshot=name.endswith("s"))
            for name, kind in kinds.items()
        }
        self.vms = {
            suffix: add_vm(
                pool,
                NULL,
                [self.old["disk" + suffix]],
                by_name(pool, "network", "guests"),
                power_state="Suspended",
                suspend_VDI=self.old["memory" + suffix],
            )
            for suffix in ("", " of s")
        }
        for vm in self.vms.values():
            config = {CLAIM: ID} if vm == self.vms[""] else {}
            of = NULL if vm == self.vms[""] else self.vms[""]
            pool.tables["VM"][vm].update(
                other_config=config, is_a_snapshot=of != NULL, snapshot_of=of
            )
        self.late = []  # calls of the plugin that are made only when they are called
        self.plan = make_plan(
            kind="in-pool",
            live=False,
            vm=uuid_of(pool, "VM", self.vms[""]),
            disks=[self._planned("disk"), self._planned("memory")],
            history=[self._planned("disk of s"), self._planned("memory of s")],
        )
        for name in KEPT:
            self.noted[self.key(name)] = {
                "destination_vdi": uuid_of(pool, "VDI", self.new[name]),
                "gate": steps.OPEN,
                "state": history.KEPT,
            }
        pool.handlers["host.call_plugin"] = self._plugin
        pool.handlers["VBD.destroy"] = lambda vbd: self._refused(vbd)
        pool.handlers["VDI.destroy"] = self._destroy
        monkeypatch.setattr(database, "sync", self._sync)
        monkeypatch.setattr(database_fields, "_post", self._post)
        for module in (statistics, messages):
            monkeypatch.setattr(module, "move", lambda m: None)
        pool.sync()

    def _planned(self, name):
        suffix = " of s" if name.endswith("s") else ""
        vm = self.pool.tables["VM"][self.vms[suffix]]
        one = make_plan().disks[0]
        return one._replace(
            key=self.key(name),
            vbd="" if "memory" in name else uuid_of(self.pool, "VBD", vm["VBDs"][0]),
            snapshot=vm["uuid"] if suffix else "",
        )

    def key(self, name):
        return uuid_of(self.pool, "VDI", self.old[name])

    # -- its xapi

    def _sync(self, session, bound=None):
        assert session is self.pool
        if self.fails == "sync":
            raise NotDurable("no room")
        if self.fails == "killed":
            raise KeyboardInterrupt
        if self.pool.syncs + 1 in self.crashes:
            self.crashes.discard(self.pool.syncs + 1)
            self.pool.goes_back()
        self.pool.sync()

    def _plugin(self, host, plugin, function, arguments):
        assert (host, plugin) == (by_name(self.pool, "host", "a1"), "sxm.py")
        if function == database_fields.BEGIN:
            return json.dumps(database_fields.begin_here(self.pool, arguments))
        assert function == database_fields.FUNCTION
        if self.fails == "worker":
            self.late.append(arguments)
            raise KeyboardInterrupt
        return json.dumps(database_fields.write_here(self.pool, arguments))

    def _post(self, field, uuid, arguments):
        if self.fails == "write":
            return ["failure", "x"]
        of, ref, name, value = arguments
        before = self.pool.tables[of][ref][name]
        self.pool.tables[of][ref][name] = value
        if of == "VBD":
            self.pool.tables["VDI"][before]["VBDs"] = []
            self.pool.tables["VDI"][value]["VBDs"] = [ref]
        return ["success", ""]

    def _refused(self, vbd):
        raise failure("OPERATION_NOT_ALLOWED", "VBD '%s' still attached" % vbd)

    def _destroy(self, vdi):
        if self.pool.tables["VDI"][vdi]["VBDs"]:
            raise failure("VDI_IN_USE", vdi, "destroy")
        on_disk = self.pool._on_disk
        named = [vbd["VDI"] for vbd in on_disk["VBD"].values()]
        named += [vm["suspend_VDI"] for vm in on_disk["VM"].values()]
        self.unsafe += [vdi] if vdi in named else []
        del self.pool.tables["VDI"][vdi]

    # -- its migration

    def disk(self, key):
        return self.noted[key]

    def note(self, key=None, **fields):
        (self.entry if key is None else self.noted[key]).update(fields)

    def describe(self, error):
        return error.failure()

    def vm(self):
        return self.vms[""]

    def source_vdi(self, disk):
        return self._ref(disk.key)

    def destination_vdi(self, disk):
        return self._ref(self.disk(disk.key)["destination_vdi"])

    def _ref(self, uuid):
        return self.pool.xenapi.VDI.get_by_uuid(uuid)

    def host(self):
        return by_name(self.pool, "host", "a1")

    def plugin(self, function):
        assert function == "receive-give"

    def mover(self, key):
        return types.SimpleNamespace(end=lambda process, command: None)

    def pulse(self, cancellable=True):
        pass

    def used_up(self, suffix):
        """The VM, or its checkpoint, is suspended no more: xapi has destroyed the image."""
        vm = self.pool.tables["VM"][self.vms[suffix]]
        vm.update(power_state="Running" if not suffix else "Halted", suspend_VDI=NULL)
        del self.pool.tables["VDI"][self.new["memory" + suffix]]

    # -- what is seen of it

    @property
    def has(self):
        """{one of KEPT: "old" or "new"}"""
        found = {}
        for suffix, vm in self.vms.items():
            record = self.pool.tables["VM"][vm]
            found["disk" + suffix] = self.pool.tables["VBD"][record["VBDs"][0]]["VDI"]
            found["memory" + suffix] = record["suspend_VDI"]
        return {
            name: "new" if found[name] == self.new[name] else "old" if found[name] else ""
            for name in KEPT
        }

    @property
    def left(self):
        """Those of KEPT whose old VDI is there."""
        return {name for name in KEPT if self.old[name] in self.pool.tables["VDI"]}


def everything(what):
    return dict.fromkeys(KEPT, what)


def finish(asleep):
    """What is behind the point of no return, up to the end."""
    known_at_destination.keep_halted(asleep)
    cleanup.clean_up(asleep)


def test_it_keeps_its_vbds_and_has_its_new_disks(monkeypatch):
    asleep = Asleep(monkeypatch)
    before = sorted(asleep.pool.tables["VBD"])
    for _ in range(2):
        adopt.adopt(asleep)
        history.adopt_within(asleep)
        assert asleep.has == everything("new")
    assert sorted(asleep.pool.tables["VBD"]) == before


def test_it_is_given_its_old_ones_back(monkeypatch):
    """Durably: the new ones are destroyed next. Of its snapshots nothing has been given yet."""
    asleep = Asleep(monkeypatch)
    adopt.adopt(asleep)
    asleep.pool.sync()
    asleep.crashes = {asleep.pool.syncs + 1}
    adopt.give_back(asleep)
    assert asleep.has == everything("old") and not asleep.crashes
    asleep.pool.goes_back()
    assert asleep.has == everything("old")


def test_what_was_never_given_is_not_taken_back(monkeypatch):
    asleep = Asleep(monkeypatch)
    syncs = asleep.pool.syncs
    adopt.give_back(asleep)
    assert (asleep.has, asleep.pool.syncs) == (everything("old"), syncs)


@pytest.mark.parametrize("crashes", [(), (2,), (2, 3), (3,), (2, 4)])
def test_nothing_goes_while_an_older_database_would_bring_it_back(monkeypatch, crashes):
    """The first sync is its own; the second looks whether the new disks are on disk, a later one
    whether what was destroyed is gone."""
    asleep = Asleep(monkeypatch, crashes)
    adopt.adopt(asleep)
    finish(asleep)
    assert asleep.has == everything("new")
    assert (asleep.left, asleep.unsafe) == (set(), [])
    asleep.pool.goes_back()
    assert asleep.has == everything("new"), "a resume finds the new ones, whatever comes back"


def test_a_xapi_that_forgets_it_again_and_again_costs_nothing(monkeypatch):
    asleep = Asleep(monkeypatch, (2, 3, 4))
    adopt.adopt(asleep)
    with pytest.raises(NotDurable, match="is the VM's memory"):
        finish(asleep)
    assert asleep.left == set(KEPT)


def test_a_recovery_of_a_worker_that_died_between_two_of_them(monkeypatch):
    """Each of them names the old disk or the new one, both of which are there."""
    asleep = Asleep(monkeypatch)
    adopt.replace(asleep, asleep.vm(), asleep.plan.disks[0], asleep.new["disk"])
    assert sorted(asleep.has.values()) == ["new", "old", "old", "old"]
    finish(asleep)
    assert (asleep.has, asleep.left, asleep.unsafe) == (everything("new"), set(), [])


def test_an_image_of_what_is_not_suspended_any_more_is_nobodys(monkeypatch):
    asleep = Asleep(monkeypatch)
    for vm in asleep.vms.values():
        asleep.pool.tables["VM"][vm].update(power_state="Halted", suspend_VDI=NULL)
        for vbd in asleep.pool.tables["VM"][vm]["VBDs"]:
            asleep.pool.tables["VBD"][vbd]["VDI"] = asleep.new[
                "disk" if vm == asleep.vm() else "disk of s"
            ]
    for disk in asleep.plan.sent:
        assert adopt.is_taken_away(asleep, disk) is disk.is_memory
    adopt.replace(asleep, asleep.vm(), asleep.plan.disks[1], asleep.new["memory"])
    assert asleep.pool.tables["VM"][asleep.vm()]["suspend_VDI"] == NULL


@pytest.mark.parametrize("fails", ["write", "sync"])
def test_the_new_ones_stay_until_it_has_its_old_ones_again(monkeypatch, fails):
    """And it stays blocked: xapi destroys an image that a suspended VM has, and sets the VM's to
    NULL."""
    asleep, log = Asleep(monkeypatch), []

    def broken(m):
        adopt.adopt(asleep)
        asleep.pool.sync()
        asleep.fails = fails
        raise MirrorBroken("k", "cut")

    def recorded(phase):
        if phase.name == "adopt":
            return phase._replace(do=broken, undo=lambda m: adopt.give_back(asleep))
        return phase._replace(
            do=lambda m: None, undo=phase.undo and (lambda m: log.append("undo " + phase.name))
        )

    def again(entry_journal):
        return migration.Migration(entry_journal, asleep.plan, None, None, FakeTask())

    monkeypatch.setattr(phases, "PHASES", tuple(map(recorded, phases.PHASES)))
    run.forward(again(Journal.create(ID, **migration.initial(asleep.plan))))
    entry = Journal.load(ID)
    assert (log, entry.entry["left"]) == ([], ["undecided"])
    assert entry.entry["error"][0] == "SXM_UNDECIDED" and asleep.plan.vm in entry.entry["error"][1]
    asleep.fails = None
    recovery_source._to_its_end(again(entry), recovery_decision.direction_of(entry.entry), 1)
    assert "undo receive" in log and log[-1] == "undo claim"
    assert (asleep.has, Journal.load(ID).entry["left"]) == (everything("old"), [])


def test_what_a_killed_worker_has_asked_for_is_not_done_behind_its_recovery(monkeypatch):
    asleep = Asleep(monkeypatch)
    asleep.fails = "worker"
    with pytest.raises(KeyboardInterrupt):
        adopt.adopt(asleep)
    asleep.fails = None
    adopt.give_back(asleep)
    (call,) = asleep.late
    with pytest.raises(FieldNotWritten, match="does not ask for it any more"):
        database_fields.write_here(asleep.pool, call)
    assert asleep.has == everything("old")
    adopt.adopt(asleep)
    assert asleep.has["disk"] == "new", "its recovery may"


def test_a_recovery_after_it_has_been_resumed(monkeypatch):
    """xapi has destroyed the image of its memory: nobody looks for it."""
    asleep = Asleep(monkeypatch)
    adopt.adopt(asleep)
    known_at_destination.keep_halted(asleep)
    asleep.used_up("")
    first = recovery_decision.direction_of(
        dict(
            migration.initial(asleep.plan),
            state="failed",
            phase="end",
            committed=True,
            left=["clean-up: VDI_IN_USE"],
        )
    ).first
    names = [phase.name for phase in phases.of(asleep.plan, first)]
    assert names == ["clean-up", "end"], "the VM may be used: it is not looked at again"
    cleanup.clean_up(asleep)
    assert asleep.left == set()


def test_an_image_that_is_used_up_is_not_looked_for(monkeypatch):
    """Nor that of a checkpoint."""
    asleep = Asleep(monkeypatch)
    adopt.adopt(asleep)
    history.adopt_within(asleep)
    for suffix in ("", " of s"):
        asleep.used_up(suffix)
    assert known_at_destination.forgotten(asleep) == []
    remap.bring_again(asleep)  # the fakes know no SR.scan
    images = [disk for disk in asleep.plan.history if disk.is_memory]
    asleep.plan = asleep.plan._replace(history=images)
    history.adopt_within(asleep)


def test_what_fails_before_it_is_known_leaves_it_blocked():
    names = [phase.name for phase in phases.of(make_plan(live=False))]
    known = next(phase for phase in phases.PHASES if phase.name == "known")
    assert known.essential and names.index("known") == names.index("clean-up") - 1


def test_an_undecided_undo_is_no_other_error(monkeypatch):
    """In another pool the undo is another one, which may fail and be told."""
    asleep = Asleep(monkeypatch)
    adopt.adopt(asleep)
    asleep.fails = "write"
    with pytest.raises(Undecided, match="has its old disks again: SXM_DATABASE"):
        adopt.give_back(asleep)


def test_what_was_given_back_and_not_on_disk_is_given_back_again(monkeypatch):
    """xapi tells what it has in its memory only. A worker that is killed before the sync leaves the
    old disks there, and the new ones in the file."""
    asleep = Asleep(monkeypatch)
    adopt.adopt(asleep)
    asleep.pool.sync()
    asleep.fails = "killed"
    with pytest.raises(KeyboardInterrupt):
        adopt.give_back(asleep)
    assert asleep.has == everything("old")
    asleep.fails = None
    adopt.give_back(asleep)
    asleep.pool.goes_back()
    assert asleep.has == everything("old")
    syncs = asleep.pool.syncs
    adopt.give_back(asleep)
    assert asleep.pool.syncs == syncs, "it is done"


def test_nor_is_it_done_while_it_cannot_be_on_disk(monkeypatch):
    """As with a disk of the master's that is full: the new disks stay, however often a recovery
    comes."""
    asleep = Asleep(monkeypatch)
    adopt.adopt(asleep)
    asleep.pool.sync()
    asleep.fails = "sync"
    for _ in range(3):
        with pytest.raises(Undecided, match="has its old disks again: SXM_NOT_DURABLE"):
            adopt.give_back(asleep)
        assert asleep.has == everything("old")
    asleep.fails = None
    adopt.give_back(asleep)
    asleep.pool.goes_back()
    assert asleep.has == everything("old")


def test_a_worker_that_is_killed_before_it_has_given_any(monkeypatch):
    """That it is about to is noted before."""
    asleep = Asleep(monkeypatch)
    asleep.fails = "worker"
    with pytest.raises(KeyboardInterrupt):
        adopt.adopt(asleep)
    assert asleep.entry[adopt.GIVEN] and asleep.has == everything("old")
