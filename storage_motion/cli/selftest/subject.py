# SPDX-License-Identifier: LGPL-2.1-only
"""The VM that a selftest moves: its own, or the one that was named; and what becomes of it."""

import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import XenAPI

from storage_motion.api.dead_worker import DeadWorkerWatch
from storage_motion.api.selftest_marks import MADE, MADE_VDI, MADE_VM, NAME, TESTED
from storage_motion.cli import names
from storage_motion.cli.failures import NotUnderstood, SelftestFailed, TooQuick, WayRefused
from storage_motion.cli.following import POLL, MigrationFailed
from storage_motion.cli.names import Found
from storage_motion.cli.pools import Pool

MIB = 1 << 20
MOVE_BOUND = 3600.0  # seconds for a migration that is waited for
HALFWAY_BOUND = 300.0  # seconds for it to have sent its first bytes
SLOW = 16  # one of a VM that was named, to be met half-way, takes so many seconds at least
SLOWEST = MIB  # bytes a second, the least that `migrate` takes
REFUSALS = ("SXM_BAD_ARGUMENTS", "SXM_REFUSED")
TOO_LATE = ("SXM_TOO_LATE", "SXM_NOT_RUNNING")  # of who would kill or cancel one that has arrived
TOO_QUICK = "its disks have too little data, or this machine is too slow, to meet a move half-way"
RUNNING, HALTED = "Running", "Halted"
MEMORY = str(256 * MIB)

# What VM.create wants (datamodel_vm.ml). No kernel, no CD: it stays in its firmware.
EMPTY_VM = {
    "user_version": "1",
    "is_a_template": False,
    "affinity": "OpaqueRef:NULL",
    "memory_static_max": MEMORY,
    "memory_dynamic_max": MEMORY,
    "memory_dynamic_min": MEMORY,
    "memory_static_min": MEMORY,
    "VCPUs_params": {},
    "VCPUs_max": "1",
    "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "destroy",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "c"},
    "platform": {"acpi": "1", "apic": "true", "pae": "true"},
    "PCI_bus": "",
    "recommendations": "",
    "xenstore_data": {},
    "ha_restart_priority": "",
    "tags": [],
    "blocked_operations": {},
}


class Place(NamedTuple):
    """Where its disks are. `pool`: its name; `sr`: the UUID of an SR of it."""

    pool: str
    sr: str


class Subject:
    """`pool`: the one that it is in now; `made`: whether it is the selftest's own; `digests`: of
    its disks as they have to be, None: not known."""

    def __init__(self, selftest: str, pool: Pool, uuid: str, made: bool) -> None:
        self.selftest, self.pool, self.uuid, self.made = selftest, pool, uuid, made
        self.digests: Optional[List[str]] = None
        self.hosts_seen: List[str] = []  # refs of those that it has run on

    @property
    def ref(self) -> str:
        """Raises XenAPI.Failure."""
        return self.pool.xenapi.VM.get_by_uuid(self.uuid)

    @property
    def power_state(self) -> str:
        """As xapi tells it now."""
        return self.pool.xenapi.VM.get_power_state(self.ref)

    def disks(self) -> List[Found]:
        """As they are now."""
        self.pool.records(anew=True)
        ref, record = self.pool.records().by_uuid("VM", self.uuid)
        return names.disks(self.pool, Found(ref or "", self.uuid, "", record))

    def place(self) -> Place:
        """Raises NotUnderstood if its disks are not in one place."""
        srs = sorted({disk.record["SR"] for disk in self.disks()})
        if len(srs) != 1:
            raise NotUnderstood("--vm: the disks of this VM are in %d SRs, not in one" % len(srs))
        return Place(self.pool.name, self.pool.xenapi.SR.get_uuid(srs[0]))

    def start(self) -> None:
        """On a host that sees its disks."""
        on = hosts_of(self.pool, self.place().sr)
        self.pool.xenapi.VM.start_on(self.ref, on[0], False, False)
        self._note_host()

    def stop(self) -> None:
        """It has nothing to lose."""
        if self.power_state != HALTED:
            self.pool.xenapi.VM.hard_shutdown(self.ref)

    def read(self) -> List[str]:
        """The digest of each of its disks, read by a host that sees them. It has to be halted."""
        found = []
        for disk in self.disks():
            host = hosts_of(self.pool, self.pool.xenapi.SR.get_uuid(disk.record["SR"]))[0]
            answer = self.pool.plugin_on(
                host, "selftest-digest", selftest=self.selftest, vdi=disk.uuid
            )
            found.append(answer["sha256"])
        return found

    def compare(self) -> str:
        """Whether its disks are as they were: "equal", or "not compared". One of its own that runs
        is shut down for that, and started again. Raises SelftestFailed."""
        running = self.power_state != HALTED
        if self.digests is None or (running and not self.made):
            return "not compared"
        if running:
            self.stop()
        found = self.read()
        if found != self.digests:
            raise SelftestFailed("a disk is not what it was", *found)
        if running:
            self.start()
        return "equal"

    # -- moves

    def arguments(self, to: Place, goal: Pool) -> Dict[str, str]:
        """Those of `migrate` to that place. A VM that runs goes, where it may choose, to a host
        that it has not run on yet."""
        given = {"vm": self.uuid, "destination-sr-uuid": to.sr}
        if goal is not self.pool:
            given.update(goal.as_remote())
        hosts = hosts_of(goal, to.sr)
        fresh = [host for host in hosts if host not in self.hosts_seen]
        resident = self.pool.xenapi.VM.get_resident_on(self.ref)
        if self.power_state == RUNNING:
            chosen = (fresh or [host for host in hosts if host == resident] or hosts)[0]
        elif goal is self.pool and len(hosts) > 1:
            return given
        else:
            chosen = hosts[0]
        return dict(given, **{"host-uuid": goal.xenapi.host.get_uuid(chosen)})

    def begin(self, given: Dict[str, str]) -> str:
        """Begin a migration: its id. Raises WayRefused with all that is wrong with it: nothing has
        been changed then."""
        try:
            return self.pool.plugin("migrate", **dict(given, wait="false"))["migration"]
        except XenAPI.Failure as failure:
            if failure.details[0] not in REFUSALS:
                raise
            raise WayRefused(*failure.details[1:])

    def move(self, to: Place, goal: Pool) -> Dict[str, Any]:
        """Move it, and see that it is there, and nowhere else: its last status. Raises WayRefused,
        MigrationFailed, SelftestFailed, WorkerDied."""
        was, source = self.power_state, self.pool
        status = self.ended(self.begin(self.arguments(to, goal)))
        if status["error"]:
            raise MigrationFailed(status["migration"], status["state"], *status["error"])
        self.pool = goal
        self.require_at(to, was)
        if goal is not source and self.is_known(source):
            raise SelftestFailed("the VM is still in the pool that it has left")
        if was == RUNNING:
            self._note_host()
        return status

    def require_at(self, place: Place, power_state: str) -> None:
        """Raises SelftestFailed."""
        if self.place() != place:
            raise SelftestFailed("its disks are not where they have to be")
        if self.power_state != power_state:
            raise SelftestFailed("it was %s, and is %s" % (power_state, self.power_state))

    def is_known(self, pool: Pool) -> bool:
        """Whether a pool has it."""
        return bool(pool.records(anew=True).ref("VM", self.uuid))

    def _note_host(self) -> None:
        self.hosts_seen.append(self.pool.xenapi.VM.get_resident_on(self.ref))

    def half_way(self, to: Place, goal: Pool) -> Dict[str, Any]:
        """Begin a slow migration, and wait until it has sent something: its status then. Raises
        WayRefused, SelftestFailed; TooQuick, where it has gone there."""
        # a VM of its own writes nothing that would have to wait
        size = max(int(disk.record["virtual_size"]) for disk in self.disks())
        rate = SLOWEST if self.made else max(size // SLOW, SLOWEST)
        migration = self.begin(dict(self.arguments(to, goal), bandwidth=str(rate)))
        for status in self._looks(migration, HALFWAY_BOUND):
            if status["state"] == "succeeded":
                self.pool = goal
                raise TooQuick(TOO_QUICK)
            if status["state"] != "running":
                raise SelftestFailed("it has ended before it was half-way", status["state"])
            if status["bytes_moved"] > 0:
                return status
        raise AssertionError

    def disturb(self, function: str, migration: str, goal: Pool, **given: str) -> None:
        """Have the plugin's `function` kill or cancel a migration that was met half-way. Raises
        XenAPI.Failure; TooQuick, where it has gone there since."""
        try:
            self.pool.plugin(function, migration=migration, **given)
        except XenAPI.Failure as failure:
            if failure.details[0] not in TOO_LATE or self.ended(migration)["state"] != "succeeded":
                raise
            self.pool = goal
            raise TooQuick(TOO_QUICK)

    def ended(self, migration: str) -> Dict[str, Any]:
        """Its last status, by the pool where it began. Raises WorkerDied."""
        watch = DeadWorkerWatch()
        for status in self._looks(migration, MOVE_BOUND):
            if status["state"] != "running":
                return status
            watch.look(status["alive"], migration, status["doing"])
        raise AssertionError

    def _looks(self, migration: str, bound: float) -> Iterator[Dict[str, Any]]:
        end = time.monotonic() + bound
        while time.monotonic() < end:
            yield self.pool.plugin("status", migration=migration)
            time.sleep(POLL)
        raise SelftestFailed("migration %s takes more than %g s" % (migration, bound))


def hosts_of(pool: Pool, sr_uuid: str) -> List[str]:
    """The refs of the enabled hosts that an SR is plugged to, in the order of their names. Raises
    SelftestFailed without one."""
    view = pool.records()
    found = [host for host in hosts_plugged(pool, sr_uuid) if view.of("host", host)["enabled"]]
    if not found:
        raise SelftestFailed("no enabled host sees SR %s" % sr_uuid)
    return found


def hosts_plugged(pool: Pool, sr_uuid: str) -> List[str]:
    """The refs of the hosts that an SR is plugged to, in maintenance or not, in the order of their
    names."""
    view = pool.records()
    ref = view.ref("SR", sr_uuid)
    found = [
        pbd["host"]
        for pbd in view.all("PBD").values()
        if pbd["SR"] == ref and pbd["currently_attached"]
    ]
    return sorted(found, key=lambda host: view.of("host", host)["name_label"])


def make(selftest: str, pool: Pool, sr_uuid: str, size: int) -> Subject:
    """A halted VM of its own with one disk of `size` bytes, which is filled. Whatever is killed in
    here, what there is has its marks."""
    api, name = pool.xenapi, NAME % selftest
    own = {TESTED: selftest, MADE: selftest}
    sr = api.SR.get_by_uuid(sr_uuid)
    note = "Made by sxm selftest, which destroys it: sxm selftest --clean does."
    vm = api.VM.create(
        dict(EMPTY_VM, name_label=name, name_description=note, other_config=dict(own))
    )
    uuid = api.VM.get_uuid(vm)
    api.VM.add_to_other_config(vm, MADE_VM, uuid)
    vdi = api.VDI.create(
        {
            "name_label": name,
            "name_description": note,
            "SR": sr,
            "virtual_size": str(size),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {MADE: selftest},
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
    )
    vdi_uuid = api.VDI.get_uuid(vdi)
    api.VDI.add_to_other_config(vdi, MADE_VDI, vdi_uuid)
    api.VBD.create(
        {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "0",
            "bootable": True,
            "mode": "RW",
            "type": "Disk",
            "unpluggable": True,
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    subject = Subject(selftest, pool, uuid, True)
    host = hosts_of(pool, sr_uuid)[0]
    filled = pool.plugin_on(host, "selftest-fill", selftest=selftest, vdi=vdi_uuid)
    subject.digests = [filled["sha256"]]
    return subject


def take(selftest: str, pool: Pool, vm: Found) -> Subject:
    """The VM that was named: it gets a mark. Raises NotUnderstood."""
    if vm.record["power_state"] not in (RUNNING, HALTED):
        raise NotUnderstood("--vm: it is %s; start it, or shut it down" % vm.record["power_state"])
    if TESTED in vm.record["other_config"]:
        raise NotUnderstood(
            "--vm: it has the mark of another selftest; if that does not run, say sxm selftest "
            "--clean"
        )
    subject = Subject(selftest, pool, vm.uuid, False)
    subject.place()
    pool.xenapi.VM.add_to_other_config(vm.ref, TESTED, selftest)
    return subject


def unmark(pool: Pool, ref: str) -> None:
    """Take the mark from a VM that was named."""
    pool.xenapi.VM.remove_from_other_config(ref, TESTED)
