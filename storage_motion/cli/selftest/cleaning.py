# SPDX-License-Identifier: LGPL-2.1-only
"""Takes away what selftests made, by their marks, and nothing else. It may be done again at any
time."""

from typing import Any, Callable, Container, Dict, Iterable, List, Optional, Sequence

import XenAPI

from storage_motion.api.selftest_marks import MADE, TESTED
from storage_motion.cli import names
from storage_motion.cli.names import Found
from storage_motion.cli.pools import Pool
from storage_motion.cli.selftest import marks, subject
from storage_motion.cli.selftest.marks import Marked
from storage_motion.errors import MotionError


def told(pools: Iterable[Pool]) -> List[str]:
    """What `clean` of all selftests would do, a sentence each."""
    found = []
    for pool in pools:
        left = marks.left(pool)
        found += [
            "pool %s: VM %s (%s, %s) is destroyed"
            % (pool.name, vm["name_label"], vm["uuid"], vm["power_state"])
            for _, vm in left.vms
        ]
        found += [
            "pool %s: disk %s (%s) is destroyed" % (pool.name, vdi["name_label"], vdi["uuid"])
            for _, vdi in left.disks
        ]
        found += [
            "pool %s: the mark is taken from VM %s, and nothing else is done to it; if it is "
            "halted, what a selftest that was killed has left open of its disks is closed"
            % (pool.name, vm["name_label"])
            for _, vm in left.named
        ]
    return found


def unsure(pools: Iterable[Pool], selftest: Optional[str] = None) -> List[str]:
    """The disks with a mark of that selftest, or of any, that are not known to be its own, and
    stay: a sentence each."""
    return [
        "pool %s: disk %s (%s) has a selftest's mark, and no VM that it made: it may be a copy, "
        "and stays; if it is nobody's, destroy it" % (pool.name, vdi["name_label"], vdi["uuid"])
        for pool in pools
        for _, vdi in _of(marks.left(pool).unsure, MADE, selftest)
    ]


def clean(pools: Sequence[Pool], selftest: Optional[str] = None) -> List[str]:
    """Destroy what a selftest made, or all of them; what could not be, a sentence each. Migrations
    of VMs that they made are cancelled first, or waited for where that is too late."""
    problems: List[str] = []
    for pool in pools:
        made = {vm["uuid"] for _, vm in _of(marks.left(pool).vms, MADE, selftest)}
        if made:
            end_migrations(pool, made, problems)
    for pool in pools:
        left = marks.left(pool)
        stay = set()  # VBDs of disks that do: without its VM nobody could tell one from a copy
        for ref, vdi in _of(left.disks, MADE, selftest):
            if not _try(problems, "VDI %s" % vdi["uuid"], _destroy_disk, pool, left, ref, vdi):
                stay.update(vdi["VBDs"])
        for ref, vm in _of(left.vms, MADE, selftest):
            if not stay.intersection(vm["VBDs"]):
                _try(problems, "VM %s" % vm["uuid"], _destroy_vm, pool, ref)
        for ref, vm in _of(left.named, TESTED, selftest):
            _try(problems, "VM %s" % vm["uuid"], _let_go, pool, ref, vm)
    return problems


def _of(found: List[Marked], key: str, selftest: Optional[str]) -> List[Marked]:
    return [one for one in found if selftest in (None, one[1]["other_config"][key])]


def _try(problems: List[str], what: str, do: Callable[..., None], *arguments: Any) -> bool:
    """Whether it was done. One thing that cannot be taken away hinders no other."""
    try:
        do(*arguments)
        return True
    except MotionError as error:
        problems.append("%s: %s" % (what, error))
    except XenAPI.Failure as failure:
        problems.append("%s: %s" % (what, ", ".join(str(detail) for detail in failure.details)))
    return False


def end_migrations(pool: Pool, uuids: Container[str], problems: List[str]) -> None:
    """Cancel the migrations of these VMs. Adds to `problems` what is wrong, a sentence each."""
    for one in pool.plugin("list")["migrations"]:
        if one["vm"] in uuids and one["state"] == "running":
            what = "migration %s" % one["migration"]
            _try(problems, what, end_migration, pool, one["migration"], one["vm"])


def end_migration(pool: Pool, migration: str, vm: str) -> None:
    """Cancel a migration of that VM. One that has gone too far, or has ended meanwhile, is waited
    for; one that nobody drives any more is recovered. Raises WorkerDied, XenAPI.Failure."""
    try:
        pool.plugin("cancel", migration=migration)
    except XenAPI.Failure as failure:
        if failure.details[0] == "SXM_WORKER_DIED":
            _recover(pool, migration)
        elif failure.details[0] != "SXM_TOO_LATE":
            raise
        subject.Subject("", pool, vm, True).ended(migration)


def _recover(pool: Pool, migration: str) -> None:
    """On the host that has its journal."""
    for host in pool.records().all("host"):
        try:
            pool.plugin_on(host, "recover", migration=migration)
        except XenAPI.Failure as failure:
            if failure.details[0] != "SXM_NO_SUCH_MIGRATION":
                raise


def _destroy_disk(pool: Pool, left: marks.Left, ref: str, vdi: Dict[str, Any]) -> None:
    owners = [vm for vm in left.vms if set(vm[1]["VBDs"]) & set(vdi["VBDs"])]
    for vm_ref, _ in owners:
        _stop(pool, vm_ref)
    _release(pool, vdi["other_config"][MADE], vdi)
    pool.xenapi.VDI.destroy(ref)


def _release(pool: Pool, selftest: str, vdi: Dict[str, Any]) -> None:
    """On each host that may have opened it."""
    for host in subject.hosts_plugged(pool, pool.xenapi.SR.get_uuid(vdi["SR"])):
        pool.plugin_on(host, "selftest-release", selftest=selftest, vdi=vdi["uuid"])


def _let_go(pool: Pool, ref: str, vm: Dict[str, Any]) -> None:
    """A VM that was named. A digest that was killed has left a disk open, and with that SM keeps
    the VM from starting. The mark goes last: only with it is a disk closed."""
    if pool.xenapi.VM.get_power_state(ref) == subject.HALTED:
        pool.records(anew=True)
        for disk in names.disks(pool, Found(ref, vm["uuid"], vm["name_label"], vm)):
            _release(pool, vm["other_config"][TESTED], disk.record)
    subject.unmark(pool, ref)


def _destroy_vm(pool: Pool, ref: str) -> None:
    _stop(pool, ref)
    pool.xenapi.VM.destroy(ref)


def _stop(pool: Pool, ref: str) -> None:
    if pool.xenapi.VM.get_power_state(ref) != subject.HALTED:
        pool.xenapi.VM.hard_shutdown(ref)
