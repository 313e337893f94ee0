# SPDX-License-Identifier: LGPL-2.1-only
"""A VM of the lab that is to be moved, to be disturbed at it, and looked at afterwards: what the
tests of failures share.

The four checks of every disturbed migration are `assert_runs`, `assert_nothing_left` and, of them
both, `moves`: the VM runs in one place only, no acknowledged write is missing, nothing is left
anywhere, a second migration succeeds.
"""

import json
import os
import time

from lab.dom0 import breakpoint
from lab.guest.record import Record
from lab.pools import leftovers
from storage_motion.dom0.launch import Process
from tests import under_way
from tests.eventually import eventually

MIB = 1 << 20
DISKS = (16 * MIB,)
GUEST = {"writes": 40, "fill": 0.3}
PATIENCE = 40.0
MOVE = 240.0
SETTLE = 10.0  # for a process that was told to end
MOMENT = 0.003  # between two looks at what passes quickly
KILLED = 9
ENDED = ("succeeded", "failed", "cancelled")


def assert_nothing_older(found, taken):
    """A guest that has booted has learned what stands on its disks: nothing older than what it was
    told is safe. Both are the answers of its `records`, now and then."""
    for device, packed in taken.items():
        known, there = Record.unpack(b"", packed), Record.unpack(b"", found[device])
        lost = [
            sector
            for sector, generation in enumerate(known.generations)
            if there.generations[sector] < generation and sector not in known.uncertain
        ]
        assert not lost, "%d sectors of %s have lost acknowledged writes, such as %s" % (
            len(lost),
            device,
            lost[:5],
        )


def assert_settles(look, bound=SETTLE):
    """`look` finds nothing left, by its list of sentences or names, within `bound` seconds."""
    left = []

    def nothing():
        left[:] = look()
        return not left

    eventually(nothing, "nothing is left", bound, seen=lambda: "\n  ".join([""] + left))


def task_ended(host, task, timeout=MOVE):
    """Wait until a task of a host's xenopsd has ended; its state."""

    def state():
        found = host.xenopsd("Task.stat", id=task)["state"]
        return None if found[0] == "Pending" else found

    return eventually(state, "the end of xenopsd's task", timeout)


class Scene:
    """One VM, on the SR `sr` of pool A (see lab.pools.pool, Pool.sr; by default the first one of
    `home`). `lab`: with the pools A (a1, a2) and B (b1); the VM goes to and fro between `home`, in
    A, and b1. `guest`: what it does (lab.pools.vms)."""

    def __init__(self, lab, disks=DISKS, sr=None, home="a1", guest=None):
        self.lab = lab
        self._home = home
        self.host = lab.host(home)
        pool = lab.pool("A")
        ref = pool.create_vm(
            "vm%d" % int(time.time() * 1000),
            [(pool.sr(*sr or (home, "fast")), size) for size in disks],
            guest or GUEST,
        )
        self.uuid = pool.start_vm(ref, home)
        pool.xapi.pool.sync_database()  # a VM that has been there for a while
        self.wait_for_writes(30)

    # -- where it is

    @property
    def pool(self):
        """The pool that the VM is in."""
        return self._pool_of(self.host)

    @property
    def there(self):
        """The host that it would go to next."""
        return self.lab.host(self._home if self.host.name == "b1" else "b1")

    @property
    def guest(self):
        """Its guest."""
        return self.host.guest(self.uuid)

    @property
    def record(self):
        """Its record in its pool."""
        return self.pool.xapi.VM.get_record(self.pool.xapi.VM.get_by_uuid(self.uuid))

    def settle(self):
        """Look where the VM is now, and remember it. Fails unless just one host has a running
        domain of it."""
        found = [host for host in self.lab.hosts if (host.domain(self.uuid) or {}).get("pid")]
        assert len(found) == 1, "hosts with a domain of the VM: %s" % [host.name for host in found]
        self.host = found[0]
        return self.host

    def wait_for_writes(self, more):
        """Wait until the guest has had `more` writes acknowledged."""
        begun = self.guest.status()["writes_acknowledged"]
        eventually(
            lambda: self.guest.status()["writes_acknowledged"] >= begun + more,
            "%d more writes" % more,
            PATIENCE,
        )

    # -- moving it

    def call(self, function, host=None, **arguments):
        """Call the plugin on `host`, by default that of the VM. Its answer; raises
        XenAPI.Failure."""
        host = host or self.host
        api = self._pool_of(host).xapi
        return json.loads(
            api.host.call_plugin(api.host.get_by_uuid(host.uuid), "sxm.py", function, arguments)
        )

    def arguments(self):
        """Those of a migration to the other pool."""
        there, network = self._pool_of(self.there), self.record["VIFs"][0]
        return {
            "vm": self.uuid,
            "remote-master": "%s:%d" % (there.master.address, there.master.https_port),
            "remote-username": "root",
            "remote-password": there.password,
            "destination-sr-uuid": there.xapi.SR.get_uuid(there.sr(self.there.name, "fast")),
            "vif:" + self.pool.xapi.VIF.get_uuid(network): there.xapi.network.get_uuid(
                there.network()
            ),
        }

    def credentials(self):
        """Those of the other pool, which nobody knows any more once a migration has ended."""
        password = self._pool_of(self.there).password
        return {"remote-username": "root", "remote-password": password}

    def within(self, sr):
        """Those of a migration to another SR of its host."""
        return {
            "vm": self.uuid,
            "destination-sr-uuid": self.pool.xapi.SR.get_uuid(self.pool.sr(self.host.name, sr)),
        }

    def begin(self, **arguments):
        """Begin a migration; its id."""
        return self.call("migrate", wait="false", **(arguments or self.arguments()))["migration"]

    def begin_and_kill(self, when=breakpoint.ALWAYS, arguments=None, **rule):
        """Begin a migration (with `arguments`, else to the other pool) whose worker dies by kill -9
        at a write of its journal (see lab.dom0.breakpoint); its id.

        Fails if it comes to its end without that."""
        root = self.host.root
        breakpoint.arm(root, when, **rule)
        try:
            migration = self.begin(**(arguments or {}))

            def died():
                worker = Process.from_json(self.journal(migration)["worker"])
                return worker and not worker.alive()

            eventually(died, "its worker's end", MOVE, seen=lambda: self._phase(migration))
        finally:
            missed = breakpoint.disarm(root)
        assert not missed, "it came to its end, %s" % self.journal(migration)["error"]
        return migration

    def journal(self, migration, host=None):
        """What the journal of a migration says now, read as a stranger."""
        with open(self._journal_path(migration, host)) as stream:
            return json.load(stream)

    def _journal_path(self, migration, host):
        return "%s/var/lib/sxm/%s.json" % ((host or self.host).root, migration)

    def _follow(self, migration, host=None):
        """A function that answers the journal. It reads it only when it has been written anew: to
        do so hundreds of times a second takes a processor that others need."""
        path, last = self._journal_path(migration, host), {}

        def look():
            found = os.stat(path)
            written = found.st_ino, found.st_mtime_ns, found.st_size
            if last.get("written") != written:
                last.update(written=written, entry=self.journal(migration, host))
            return last["entry"]

        return look

    def until(self, migration, what, timeout=MOVE):
        """Wait until `what(journal)` is true; that journal. Fails if the migration has ended
        before."""

        journal = self._follow(migration)

        def found():
            entry = journal()
            if what(entry):
                return entry
            assert entry["state"] not in ENDED, "%s, %s" % (entry["state"], entry["error"])

        return eventually(
            found,
            "what its journal is to say",
            timeout,
            seen=lambda: self._phase(migration),
            poll=MOMENT,
        )

    def ended(self, migration, host=None, timeout=MOVE):
        """Wait until it has ended; its last journal."""

        journal = self._follow(migration, host)

        def last():
            entry = journal()
            return entry if entry["state"] in ENDED else None

        return eventually(last, "its end", timeout, seen=lambda: self._phase(migration, host))

    def kill(self, process):
        """kill -9 a process of a journal, {"pid", "started"}; fails if it is gone already."""
        one = Process.from_json(process)
        assert one.alive()
        os.kill(one.pid, KILLED)
        assert one.gone(SETTLE)

    def restore(self):
        """After a test that failed: no migration is under way, and the VM runs, so that the next
        test stands for itself."""
        under_way.end_migrations(self.lab)
        if not any((host.domain(self.uuid) or {}).get("pid") for host in self.lab.hosts):
            pool = next(
                pool
                for pool in self.lab.pools
                if any(vm["uuid"] == self.uuid for vm in pool.xapi.VM.get_all_records().values())
            )
            pool.start_vm(pool.xapi.VM.get_by_uuid(self.uuid), pool.hosts[0].name)
        self.settle()

    # -- looking at it

    def assert_runs(self):
        """It runs where it is and nowhere else, and has lost nothing."""
        record = self.record
        assert record["power_state"] == "Running", record["power_state"]
        assert record["resident_on"] == self.pool.xapi.host.get_by_uuid(self.host.uuid)
        self.wait_for_writes(20)
        checked, status = self.guest.check(), self.guest.status()
        assert (checked["missing"], status["missing"], status["errors"], status["foreign"]) == (
            0,
            0,
            0,
            0,
        ), (checked, status)
        for pool in self.lab.pools:
            present = any(vm["uuid"] == self.uuid for vm in pool.xapi.VM.get_all_records().values())
            assert present == (pool is self.pool), "VM in pool %s: %s" % (pool.name, present)
        for host in self.lab.hosts:
            assert host is self.host or host.domain(self.uuid) is None

    def assert_nothing_left(self):
        """Nothing that anything left behind, on any host."""
        assert_settles(lambda: leftovers.at_rest(self.lab))

    def moves(self):
        """The second migration of the same VM; it ends up at the other host."""
        entry = self.ended(self.begin())
        assert entry["state"] == "succeeded", entry["error"]
        self.host = self.there
        self.assert_runs()
        self.assert_nothing_left()

    def _pool_of(self, host):
        return next(pool for pool in self.lab.pools if host in pool.hosts)

    def _phase(self, migration, host=None):
        return self.journal(migration, host)["phase"]
