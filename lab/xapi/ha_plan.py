# SPDX-License-Identifier: LGPL-2.1-only
"""The failover plan of high availability: whether, and where, the VMs that it protects could be
restarted (xapi_ha_vm_failover.ml, agility.ml).

Where xapi's binpacker looks for some way to place the VMs, this one takes one: the largest first,
each on the first host with room. So it may find no plan where xapi finds one, and not the other way
round.
"""

import itertools
from typing import NamedTuple

from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

RESTART, BEST_EFFORT = "restart", "best-effort"
PRIORITIES = (RESTART, BEST_EFFORT, "")


class Plan(NamedTuple):
    """`starts`: {VM: host} of those that are protected and run nowhere; `unplaced`: those of them
    that fit on no host; `pinned`: whether some protected VM cannot run on every host; `survives`:
    whether all others could be restarted after so many failures of hosts."""

    starts: dict
    unplaced: list
    pinned: bool
    survives: bool

    @property
    def is_for_all(self):
        return not self.unplaced and not self.pinned and self.survives


def is_protected(record):
    """Whether HA keeps a VM (its record) running at all costs."""
    return record["ha_always_run"] and record["ha_restart_priority"] == RESTART


def protected(database):
    """{VM: record} of those."""
    return {ref: one for ref, one in database.records("VM").items() if is_protected(one)}


def hosts_that_boot(database, record):
    """The hosts, by their uuids, on which all SRs of a VM's disks (its record) are plugged."""
    found = sorted(database.refs("host"), key=lambda ref: database.get("host", ref, "uuid"))
    for sr in _srs(database, record):
        found = [host for host in found if host in _plugged(database, sr)]
    return found


def is_agile(database, record):
    """Whether a VM (its record) can run on every enabled host: all its SRs are shared, and plugged
    there, and all its networks have a PIF there. One without any PIF has not."""
    networks = {database.get("VIF", vif, "network") for vif in record["VIFs"]}
    return (
        not record["VGPUs"]
        and not record["VUSBs"]
        and all(_is_shared(database, sr) for sr in _srs(database, record))
        and all(_enabled(database) <= _wired(database, network) for network in networks)
    )


def require_shared(database, vm, vdi):
    """Raises HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED if the VM is protected, and a CD would bind it
    to some hosts (xapi_vbd_helpers.ml, assert_doesnt_make_vm_non_agile)."""
    pool = database.record("pool", database.refs("pool")[0])
    sr = database.get("VDI", vdi, "SR")
    if (
        pool["ha_enabled"]
        and not pool["ha_allow_overcommit"]
        and is_protected(database.record("VM", vm))
        and not _is_shared(database, sr)
    ):
        raise Failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)


def _is_shared(database, sr):
    return database.get("SR", sr, "shared") and _enabled(database) <= _plugged(database, sr)


def _enabled(database):
    return set(database.where("host", enabled=True))


def _srs(database, record):
    disks = [database.record("VBD", vbd) for vbd in record["VBDs"]]
    return {database.get("VDI", disk["VDI"], "SR") for disk in disks if not disk["empty"]}


def _plugged(database, sr):
    """The hosts that see an SR."""
    pbds = database.where("PBD", SR=sr, currently_attached=True)
    return {database.get("PBD", pbd, "host") for pbd in pbds}


def _wired(database, network):
    """The hosts with a PIF on a network, other than a slave of a bond."""
    pifs = [database.record("PIF", pif) for pif in database.get("network", network, "PIFs")]
    return {pif["host"] for pif in pifs if pif["bond_slave_of"] in ("", NULL)}


def _live(database):
    """The hosts that are enabled and alive."""
    return [
        host
        for host in sorted(
            database.where("host", enabled=True), key=lambda ref: database.get("host", ref, "uuid")
        )
        if database.get("host_metrics", database.get("host", host, "metrics"), "live")
    ]


def _memory(record):
    return int(record["memory_static_max"]) + int(record["memory_overhead"])


def _free(database, host):
    """Bytes of a host that no VM may ever use that is there, or is about to come."""
    metrics = database.get("host", host, "metrics")
    there = set(database.where("VM", resident_on=host))
    there |= set(database.where("VM", scheduled_to_be_resident_on=host))
    used = sum(_memory(database.record("VM", vm)) for vm in there)
    own = int(database.get("host", host, "memory_overhead"))
    return int(database.get("host_metrics", metrics, "memory_total")) - own - used


def compute(database, failures, extra=(), arriving=None):
    """The Plan for so many `failures` of hosts. `extra`: VMs that were protected too; `arriving`:
    (VM, host) of one that were there."""
    vms = dict(protected(database), **{vm: database.record("VM", vm) for vm in extra})
    live = _live(database)
    free = {host: _free(database, host) for host in live}
    if arriving:
        vm, host = arriving
        free[host] = free.get(host, 0) - _memory(database.record("VM", vm))
        if vm in vms:
            vms[vm] = dict(vms[vm], resident_on=host)
    agile = {vm for vm, record in vms.items() if is_agile(database, record)}
    where = {
        vm: next(
            (
                record[field]
                for field in ("resident_on", "scheduled_to_be_resident_on")
                if record[field] in live
            ),
            None,
        )
        for vm, record in vms.items()
    }
    starts = {}
    for vm in sorted(set(vms) - agile):
        bootable = hosts_that_boot(database, vms[vm]) if where[vm] is None else []
        if bootable:
            starts[vm] = bootable[0]
            free[bootable[0]] = free.get(bootable[0], 0) - _memory(vms[vm])
    starts.update(_packed(vms, [vm for vm in agile if where[vm] is None], free))
    unplaced = [vm for vm in vms if where[vm] is None and vm not in starts]
    placed = {vm: where[vm] or starts.get(vm) for vm in agile}
    return Plan(
        starts,
        unplaced,
        bool(set(vms) - agile),
        all(
            _survive(vms, placed, free, set(failed))
            for failed in itertools.combinations(live, min(failures, len(live)))
        ),
    )


def _packed(vms, wanted, free):
    """{VM: host} of as many of these as find room, which is taken from `free`."""
    found = {}
    for vm in sorted(wanted, key=lambda vm: (-_memory(vms[vm]), vms[vm]["uuid"])):
        host = next((host for host in free if free[host] >= _memory(vms[vm])), None)
        if host is not None:
            found[vm] = host
            free[host] -= _memory(vms[vm])
    return found


def _survive(vms, placed, free, failed):
    """Whether the VMs on the hosts that have `failed` find room on the others."""
    lost = [vm for vm, host in placed.items() if host in failed]
    left = {host: memory for host, memory in free.items() if host not in failed}
    return len(_packed(vms, lost, left)) == len(lost)


def require(database, extra=(), arriving=None, failures=None):
    """Raises HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN if there is a plan for all now, and there would
    be none with such a change; what is without a plan already cannot get worse. `failures`: of so
    many hosts instead of as many as there is a plan for."""
    pool = database.record("pool", database.refs("pool")[0])
    if not pool["ha_enabled"] or pool["ha_allow_overcommit"]:
        return
    now = int(pool["ha_plan_exists_for"])
    then = now if failures is None else failures
    if (
        compute(database, now).is_for_all
        and not compute(database, then, extra, arriving).is_for_all
    ):
        raise Failure("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")


def require_start(database, vm, host):
    """The same before a VM is started on a host (message_forwarding.ml,
    check_vm_preserves_ha_plan)."""
    record = database.record("VM", vm)
    if record["ha_restart_priority"] == RESTART and not record["ha_always_run"]:
        require(database, extra=(vm,))
    else:
        require(database, arriving=(vm, host))


def update_status(database):
    """Whether the pool has promised more than it can keep, and for how many failures of hosts there
    is a plan."""
    pool = database.refs("pool")[0]
    wanted = int(database.get("pool", pool, "ha_host_failures_to_tolerate"))
    kept = next(
        (number for number in range(wanted, -1, -1) if compute(database, number).is_for_all), None
    )
    database.set("pool", pool, ha_overcommitted=kept != wanted, ha_plan_exists_for=kept or 0)
