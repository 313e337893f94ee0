# SPDX-License-Identifier: LGPL-2.1-only
"""A migration whose worker was killed, in two pools, for the tests of its recovery: the journal,
the phases and their undos are the real ones, what they ask is faked."""

import json
import os
import time
import types

import move_world
from fake_migration import ID, make_plan
from fake_pool import NULL, add_vdi, failure
from storage_motion.dom0.launch import Process
from storage_motion.journal import journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration, recovery, recovery_source, run
from storage_motion.migration.phases import blocking, claim, complete, table
from storage_motion.sm import marks

DEAD = {"pid": 1, "started": -1}
ANOTHER = Process.of(os.getppid()).to_json()
PASSWORD = "correct horse"
LOCKED = {"paused": marks.of_source(ID), "relinking": marks.of_source(ID)}
LIVE = [phase.name for phase in table.of(make_plan())]


def entry(live=True, copy=False, **fields):
    """What the journal of an interrupted migration says."""
    begun = dict(
        migration.initial(make_plan(live=live, copy=copy)),
        state=journal.RUNNING,
        started=time.time(),
        worker=DEAD,
    )
    return dict(begun, **fields)


class FakeMover(move_world.FakeMover):
    def end(self, process, command, why=None):
        pass


class Interrupted:
    """One disk on its way, of which nobody knows what has become of it.

    `world`: the World that it is in. `away`: what connecting to the other pool raises. `logins`: of
    it. `sessions`: those that are open, by the names of their pools. `pauses`: what was slept.
    `fails`: {function of the destination's plugin: how often it fails}"""

    def __init__(self, monkeypatch, script=(move_world.FAILED,), in_pool=False):
        self.world = world = move_world.World(monkeypatch, [])
        world.script = [getattr(world, step) if isinstance(step, str) else step for step in script]
        self.source = world.source
        self.destination = world.source if in_pool else world.destination
        self.plan = world.plan = make_plan(kind="in-pool") if in_pool else make_plan()
        self.away, self.logins, self.sessions, self.pauses, self.fails = None, [], [], [], {}
        monkeypatch.setattr(recovery.sessions, "local", self._local)
        monkeypatch.setattr(recovery.sessions, "remote", self._remote)
        monkeypatch.setattr(recovery.sessions, "logout", lambda one: self.sessions.remove(one.name))
        clock = types.SimpleNamespace(sleep=self.pauses.append, time=time.time)
        for module in (recovery, recovery_source):
            monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(run, "FORWARD_WAIT", 0)
        monkeypatch.setattr(migration.Migration, "mover", lambda m, key: FakeMover(world))
        monkeypatch.setattr(complete, "COMPLETE_TIMEOUT", 0.3)
        world.kept = '{"vm": {"id": "v"}}'
        self._source_pool()
        self._destination_pool(in_pool)

    def _source_pool(self):
        pool = self.source
        pool.tables["host"] = {"OpaqueRef:h": {"uuid": self.plan.source_host}}
        pool.handlers["task.create"] = lambda label, description: pool.add(
            "task", other_config={}, current_operations={}, status="pending", error_info=[]
        )
        self.vm.update(blocked_operations={}, resident_on="OpaqueRef:h")
        (vbd,) = pool.tables["VBD"].values()
        vbd.update(uuid=self.plan.disks[0].vbd, unpluggable=True)
        pool.handlers["VBD.destroy"] = self._destroy_vbd

    def _destination_pool(self, in_pool):
        pool, host = self.destination, move_world.HOST[len(marks.HOST) :]
        pool.tables.setdefault("host", {})[host] = {"uuid": self.plan.destination_host}
        pool.handlers["host.call_plugin"] = self._plugin
        pool.handlers["VM.power_state_reset"] = lambda vm: pool.tables["VM"][vm].update(
            power_state="Halted", resident_on=NULL
        )
        pool.handlers["Async.VM.pool_migrate_complete"] = self._complete
        if in_pool:
            vdi = add_vdi(pool, "OpaqueRef:sr", sm_config=dict(move_world.SHUT), managed=False)
            pool.tables["VDI"][vdi]["uuid"] = "d"
            return
        for vm in pool.tables["VM"].values():
            vm.update(
                scheduled_to_be_resident_on=host,
                blocked_operations={name: blocking.reason(ID) for name in claim.DISTURBING},
            )

    def begin(self, phase, task=None, gate=None, one=ID, **fields):
        """Its journal, of a worker that died in `phase`: `task`, xenopsd's; `gate`: its disk's
        step. And what there is at the destination by then."""
        begun = LIVE[: LIVE.index(phase) + 1] if phase else []
        entry = migration.initial(self.plan)
        entry["disks"]["k"].update({"destination_vdi": "d"} if "receive" in begun else {})
        entry["disks"]["k"].update({"gate": gate} if gate else {})
        entry.update(
            phase=phase,
            begun=begun,
            worker=DEAD,
            blocked=list(claim.DISTURBING) if begun else [],
            receiving="receive" in begun,
            imported="remap" in begun,
            xenops_task=task,
            committed="complete" in begun,
        )
        if "receive" not in begun:
            self._remove("VDI", "d")
        if "remap" not in begun and self.plan.cross_pool:
            self.destination.tables["VM"].clear()
        secret_files.keep(one, "remote", {"username": "root", "password": PASSWORD})
        return Journal.create(one, **dict(entry, **fields))

    def recover(self, **given):
        """The answer, of this migration."""
        (answer,) = recovery.recover(None, dict(given, migration=ID))["migrations"]
        assert self.sessions == [], "each one is ended"
        assert len(self.may_run) <= 1, "no two hosts run a VM"
        return answer

    @property
    def entry(self):
        return Journal.load(ID).entry

    @property
    def vm(self):
        """The VM's record at the source."""
        (record,) = self.source.tables["VM"].values()
        return record

    @property
    def task(self):
        """(status, error) of the task that shows it."""
        record = self.source.get("task", self.source.xenapi.task.get_by_uuid(self.entry["task"]))
        return record["status"], record["error_info"]

    @property
    def may_run(self):
        """The sides at which somebody may start the VM on its disk, or where it goes on."""
        return [
            side
            for side, pool, disk in (("source", self.source, "k"), ("there", self.destination, "d"))
            if any(self._is_free(vm) for vm in pool.tables["VM"].values())
            and any(
                self._is_usable(vdi) for vdi in pool.tables["VDI"].values() if vdi["uuid"] == disk
            )
        ]

    @staticmethod
    def _is_free(vm):
        return "start" not in vm["blocked_operations"]

    @staticmethod
    def _is_usable(vdi):
        return vdi["managed"] and not {marks.PAUSED, marks.RELINKING} & set(vdi["sm_config"])

    def has(self, pool, class_name, uuid):
        return uuid in [record["uuid"] for record in pool.tables[class_name].values()]

    def secrets_are_kept(self):
        try:
            return bool(secret_files.get(ID, "remote"))
        except FileNotFoundError:
            return False

    def _destroy_vbd(self, ref):
        self.vm["VBDs"].remove(ref)
        del self.source.tables["VBD"][ref]

    def _remove(self, class_name, uuid):
        table = self.destination.tables[class_name]
        for ref in [ref for ref, record in table.items() if record["uuid"] == uuid]:
            del table[ref]

    def _local(self, timeout=None):
        self.sessions.append(self.source.name)
        return self.source

    def _remote(self, url, username, password, timeout):
        self.logins.append((url, username, password))
        if self.away:
            raise self.away
        self.sessions.append(self.destination.name)
        return self.destination

    def _plugin(self, host, plugin, function, given):
        assert given["migration"] == ID
        if self.fails.get(function):
            self.fails[function] -= 1
            raise failure("SXM_DISK_IN_USE", "d")
        answer = self.world.plugin(function)
        if function == "receive-abort":
            self._remove("VDI", "d")
        if function == "receive-status":
            return json.dumps({"disks": {"k": {"read_only": False}}})
        return answer

    def _complete(self, vm, host):
        self.destination.tables["VM"][vm].update(resident_on=host, power_state="Running")
        return self.destination.add("task", status="success", result="")
