# SPDX-License-Identifier: LGPL-2.1-only
"""One run of the campaign: a live migration with a writing guest, disturbed by the cases of its
seed; then recovered; then checked."""

import contextlib
import os
import random
import signal
import time

import XenAPI

from lab.dom0 import breakpoint, broken_disk, systemd
from lab.guest.control import GuestError
from lab.pools import leftovers
from lab.pools.link import Link
from storage_motion.dom0.launch import Process
from tests.e2e.moments import NAMES
from tests.e2e.scene import ENDED, assert_nothing_older, assert_settles
from tests.eventually import eventually
from tests.faults import cases
from tests.faults.injection import SIDES, Injection

LONGEST = 420.0  # seconds for a disturbed migration to come to an end, or to a worker's death
RECOVERY = 240.0  # seconds for recovery
CANCEL = 10.0  # seconds within which a migration that has used up its tries has to be cancelled
REST = 15.0  # seconds for processes that were told to end
TICK = 0.02
AGAIN = 1.0  # seconds after which recovery is looked at, or asked for, once more
LOOK = "look"  # a rule that only takes down what the guest knows, when it is suspended
PASSWORD = ("remote-username", "remote-password")


class Run:
    """`done`: the cases that were injected; `missed`: those whose moment or process did not come;
    `log`: what happened."""

    def __init__(self, vm, seed):
        """`vm`: of a kind (tests.faults.kinds), and running."""
        self.vm = vm
        self.scene = vm.scene
        self.seed = seed
        self.cases = cases.plan(seed)
        # else: recovered by hand
        self._is_followed = bool(seed % 2) and cases.kills_the_worker(self.cases)
        self.done, self.missed = [], []
        self.outcome = None
        self.log = []
        self._records = []
        self._chance = random.Random("run %d" % seed)

    def go(self):
        """Do all of it. Raises AssertionError (and whatever else goes wrong) if the promise does
        not hold."""
        self.begun = time.monotonic()
        self.vm.prepare()
        source, there, arguments = self.scene.host, self.scene.there, self.vm.arguments()
        goes_back = any(case.fault == cases.GOES_BACK for case in self.cases)
        linked = any(case.process == "link" for case in self.cases)
        with Link([source]) if linked else contextlib.nullcontext() as link:
            injection = Injection(self.scene, link, self._chance)
            injection.before_power = self._remember
            if goes_back:
                injection.database_goes_back()
            unwritable = [
                injection.hosts[side].root
                for side in SIDES
                if any(case.process == "journal at the " + side for case in self.cases)
            ]
            for root in unwritable:
                broken_disk.install(root)
            for case in self.cases:
                moment = self.vm.moment(case.phase, self._chance)
                breakpoint.arm(source.root, moment, signal=signal.SIGSTOP, name=case.phase)
            if "detached" not in [case.phase for case in self.cases]:
                moment = self.vm.moment("detached", self._chance)
                breakpoint.arm(source.root, moment, signal=signal.SIGSTOP, name=LOOK)
            if self._is_followed:
                systemd.release(source.root)
            try:
                migration = injection.migration = self.scene.begin(**arguments)
                self._note("%s from %s to %s" % (migration, source.name, there.name))
                self._drive(injection, source)
            finally:
                breakpoint.disarm(source.root)
                injection.settle()
                for root in unwritable:
                    broken_disk.end(root)
                self.log += injection.log
                self.missed = [case for case in self.cases if case not in self.done]
        if self._is_followed:
            self._await_the_follower(migration, source)
        self._recover(migration, source, arguments, injection)
        self._settle(injection)
        self._check(migration, source, there)

    # -- the migration

    def _drive(self, injection, source):
        """Until the worker has ended, one way or the other."""
        by_phase = {case.phase: case for case in self.cases}
        waiting = set(by_phase) | ({LOOK} if "detached" not in by_phase else set())

        def turn():
            self.done += injection.turn()
            entry = self.scene.journal(injection.migration, source)
            worker = Process.from_json(entry["worker"])
            if entry["state"] in ENDED or worker and not worker.alive():
                return True
            if worker and _stopped(worker):
                for name in sorted(waiting - set(breakpoint.armed(source.root))):
                    waiting.remove(name)
                    self._remember()
                    if name != LOOK and injection.inject(by_phase[name]):
                        self.done.append(by_phase[name])
                if worker.pid not in injection.stopped:
                    _signal(worker, signal.SIGCONT)
            elif entry.get("broken") and entry["broken"].get("waiting", "").startswith("resume"):
                self._give_up(injection.migration, source)
            return False

        def where():
            entry = self.scene.journal(injection.migration, source)
            return "phase %s, broken %s" % (entry["phase"], entry["broken"])

        eventually(turn, "the worker's end", LONGEST, seen=where, poll=TICK)

    def _give_up(self, migration, source):
        """It has used up its tries, and waits for somebody: cancel it, which has its own
        promise."""
        begun = time.monotonic()
        try:
            self.scene.call("cancel", host=source, migration=migration)
        except XenAPI.Failure as failure:
            assert failure.details[0] == "SXM_TOO_LATE", failure.details
        self._note("its tries are used up; cancelled within %.1f s" % (time.monotonic() - begun))

    def _await_the_follower(self, migration, source):
        """A worker that was killed is followed by another one, which brings the migration to an end
        by itself."""

        def last():
            entry = self.scene.journal(migration, source)
            worker = Process.from_json(entry["worker"])
            if entry["state"] in ENDED and not (worker and worker.alive()):
                return entry
            self._restart_the_deaf()

        entry = eventually(
            last,
            "the end that one who follows brings it to",
            RECOVERY,
            seen=lambda: "phase %s" % self.scene.journal(migration, source)["phase"],
            poll=AGAIN,
        )
        systemd.hold(source.root)
        self._note("with the worker that followed: %s, left: %s" % (entry["state"], entry["left"]))

    def _recover(self, migration, source, arguments, injection):
        """What the boot unit does on a host that had no power; and then, with the password that
        only memory had, the migration."""
        for side in injection.power_failed:
            host = injection.hosts[side]
            for answer in self.scene.call("recover", host=host)["migrations"]:
                self._note("boot of the %s: %s: %s" % (side, answer["outcome"], answer["why"]))
        answer = None

        def is_over():
            entry = self.scene.journal(migration, source)
            if entry["state"] not in ENDED or entry["left"]:
                return False
            self.outcome = self.outcome or entry["state"]
            self._note("%s: %s" % (entry["state"], entry["error"]))
            return True

        def recovered():
            nonlocal answer
            if is_over():
                return True
            entry = self.scene.journal(migration, source)
            worker = Process.from_json(entry["worker"])
            assert not worker or worker.gone(REST), (
                "a worker that has ended its migration stays alive"
            )
            self._restart_the_deaf()
            given = {name: arguments[name] for name in PASSWORD}
            (answer,) = self.scene.call("recover", host=source, migration=migration, **given)[
                "migrations"
            ]
            self._note(
                "recovery from %s: %s: %s" % (entry["phase"], answer["outcome"], answer["why"])
            )
            self.outcome = answer["outcome"]
            return is_over()

        eventually(recovered, "its recovery", RECOVERY, seen=lambda: answer, poll=AGAIN)

    def _restart_the_deaf(self):
        """What operations.md has the administrator do about a xapi that hears nothing of its
        xenopsd."""
        for pool in self.scene.lab.pools:
            for host in pool.hosts:
                if host.is_deaf:
                    self._note("the toolstack of %s is restarted: it hears nothing" % host.name)
                    host.stop_xapi()
                    host.start_xapi()
                    pool.forget_session()

    # -- the four checks

    def _settle(self, injection):
        """One place: find the VM, and have it run: if it is suspended, or the faults have halted
        it."""
        scene = self.scene
        self._restart_the_deaf()
        present = [
            pool
            for pool in scene.lab.pools
            if scene.uuid in [vm["uuid"] for vm in pool.xapi.VM.get_all_records().values()]
        ]
        assert len(present) == 1, "pools that have the VM: %s" % [pool.name for pool in present]
        (pool,) = present
        for path in injection.remove_what_the_dead_left():
            self._note("taken away: %s, which SM, killed, had not renamed" % path)
        state = pool.xapi.VM.get_power_state(pool.xapi.VM.get_by_uuid(scene.uuid))
        if not self.vm.runs:
            assert state == "Suspended", state
            scene.host = pool.hosts[0]
            self._at_rest()
            self.vm.rest()
            return
        if state == "Running":
            scene.settle()
            assert scene.pool is pool, "it is in pool %s and runs in pool %s" % (
                pool.name,
                scene.pool.name,
            )
            return
        assert state == "Halted", state
        assert self._may_halt(), "the VM has halted"
        scene.host = pool.hosts[0]
        self._note("halted in pool %s" % pool.name)
        self._at_rest()
        self.vm.start()

    def _may_halt(self):
        """xapi's own outcomes: a host without power, a xenopsd that dies, a move that fails after
        the guest was suspended, also by something that was stopped for seconds in a phase before
        the move."""
        return any(
            case.fault == "power failure"
            or case.process.startswith("xenopsd")
            or NAMES.index(case.phase) >= NAMES.index("in-sync")
            for case in self.done
        )

    def _check(self, migration, source, there):
        scene = self.scene
        scene.assert_runs()
        self._compare(scene.guest.records())
        self._at_rest()
        self.vm.check()
        for host, name in ((source, "%s" % migration), (there, "receive-%s" % migration)):
            with contextlib.suppress(FileNotFoundError):
                entry = scene.journal(name, host)
                assert entry["state"] in ENDED and not entry.get("left"), "journal %s on %s: %s" % (
                    name,
                    host.name,
                    entry["state"],
                )

    def _at_rest(self):
        # The lab's xapi leaves it to the next start to replace what xenopsd knows of a VM that has
        # halted.
        assert_settles(
            lambda: [
                text
                for text in leftovers.at_rest(self.scene.lab)
                if not text.endswith("knows VM %s (Halted)" % self.scene.uuid)
            ],
            REST,
        )

    def _remember(self):
        """Take down what the guest was told is safe so far: it may be about to lose its memory."""
        for host in self.scene.lab.hosts:
            if host.domain(self.scene.uuid):
                with contextlib.suppress(GuestError, OSError):  # it is dying, or only being built
                    self._records.append(host.guest(self.scene.uuid).records())

    def _compare(self, found):
        """A guest that has booted, after its halt or by HA, has learned what stands on its disks:
        nothing older than what was acknowledged."""
        for taken in self._records:
            assert_nothing_older(found, taken)

    def _note(self, text):
        self.log.append("%6.1f s  %s" % (time.monotonic() - self.begun, text))


def _stopped(process):
    try:
        with open("/proc/%d/stat" % process.pid) as stream:
            return stream.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _signal(process, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
