# SPDX-License-Identifier: LGPL-2.1-only
"""A VM between xapi's objects and a host's xenopsd: what xenopsd is told, what it tells."""

import logging
import time

from lab import patience
from lab.xapi import rrd_service, vm_lifecycle
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL, Timestamp

_POLL = 0.05 * patience.TIMES  # seconds between looks at a task of xenopsd
_LONGEST_TASK = 600.0  # seconds
# keys of a VM's other_config that the lab's guest takes, without this
_GUEST_SETTINGS = "lab-guest:"
# of a VM that has none of these: it has no system on its disks, and stays in its firmware, which
# reads them and writes nothing
_FIRMWARE = {"workers": "0", "fill": "0"}
_DEBUG = "lab-xapi"
_AT_REST = ("Halted", "Suspended")

log = logging.getLogger("xapi.xenops")


def device_name(userdevice):
    """The guest's name of the disk at position `userdevice`: 0 is xvda."""
    if not userdevice.isdigit():
        return userdevice
    return "xvd%s" % chr(ord("a") + int(userdevice))


def locator(database, vdi):
    """How xenopsd names a VDI: SR uuid/location."""
    record = database.record("VDI", vdi)
    return "%s/%s" % (database.get("SR", record["SR"], "uuid"), record["location"])


def vdi_of(database, text):
    """The VDI of a locator, or None."""
    sr_uuid, _, location = text.partition("/")
    sr = database.find_uuid("SR", sr_uuid)
    found = database.where("VDI", SR=sr, location=location) if sr else []
    return found[0] if found else None


def metadata(database, vm, plugged_only=False):
    """What VM.add takes; of a VM that is not started anew of the disks that it has plugged
    (create_metadata)."""
    record = database.record("VM", vm)
    disks = [database.record("VBD", vbd) for vbd in record["VBDs"]]
    vifs = [database.record("VIF", vif) for vif in record["VIFs"]]
    return {
        "id": record["uuid"],
        "name": record["name_label"],
        "memory": str(record["memory_dynamic_max"]),
        "disks": [
            disk_metadata(database, disk)
            for disk in sorted(
                disks, key=lambda disk: (len(disk["userdevice"]), disk["userdevice"])
            )
            if disk["type"] == "Disk"
            and not disk["empty"]
            and (disk["currently_attached"] or not plugged_only)
        ],
        "tpm": [database.get("VTPM", vtpm, "uuid") for vtpm in record["VTPMs"]],
        "vifs": [
            {
                "device": vif["device"],
                "mac": vif["MAC"],
                "bridge": database.get("network", vif["network"], "bridge"),
            }
            for vif in vifs
        ],
        "guest": {
            key[len(_GUEST_SETTINGS) :]: value
            for key, value in record["other_config"].items()
            if key.startswith(_GUEST_SETTINGS)
        }
        or _FIRMWARE,
    }


def disk_metadata(database, vbd):
    """What VBD.add takes, of a VBD (its record)."""
    return {
        "device": vbd["device"] or device_name(vbd["userdevice"]),
        "vdi": locator(database, vbd["VDI"]),
        "rw": vbd["mode"] == "RW",
    }


def run(context, host, method, **members):
    """A call of xenopsd that answers a task; waits until the task is done. Raises what went wrong
    there.

    Cancelling the XenAPI task cancels xenopsd's.
    """
    pool = context.pool

    def ask(name, **more):
        return pool.on_host(host, "xenops", method=name, members=dict(more, debug_info=_DEBUG))

    identity = ask(method, **members)
    deadline = time.monotonic() + _LONGEST_TASK
    cancelled = False
    try:
        while True:
            state = ask("Task.stat", id=identity)["state"]
            if state[0] == "Completed":
                return
            if state[0] == "Failed":
                raise _failure(state[1])
            if context.task:
                _report(pool, context.task, float(state[1]))
                if not cancelled and pool.tasks.is_cancelling(context.task):
                    cancelled = True
                    ask("Task.cancel", id=identity)
            if time.monotonic() > deadline:
                raise Failure(
                    "INTERNAL_ERROR",
                    "xenopsd: %s did not end within %d s" % (method, _LONGEST_TASK),
                )
            time.sleep(_POLL)
    finally:
        ask("Task.destroy", id=identity)


def _report(pool, task, fraction):
    with pool.database.lock:
        if pool.database.exists("task", task):
            pool.database.set("task", task, progress=fraction)


def _failure(error):
    name = error[0] if isinstance(error, list) and error else str(error)
    if name == "Cancelled":
        return Failure("TASK_CANCELLED", NULL)
    # (script, reason, stdout, exit code): xapi_xenops.ml, transform_xenops_exn
    if name == "Hook_failed":
        return Failure("XAPI_HOOK_FAILED", *[str(part) for part in error[1]])
    return Failure(
        "INTERNAL_ERROR", "xenopsd internal error: Xenops_interface.Xenopsd_error(%s)" % (error,)
    )


def stat(pool, host, uuid):
    """VM.stat of that host's xenopsd; None where it has no such VM. Raises where it cannot be
    asked."""
    try:
        return pool.on_host(
            host, "xenops", method="VM.stat", members={"debug_info": _DEBUG, "id": uuid}
        )
    except Failure as failure:
        if failure.code == "Does_not_exist":
            return None
        raise


def await_events(pool, host):
    """Wait until the xapi of `host` has heard what xenopsd there has told so far
    (Events_from_xenopsd.wait): for ever, if it does not listen."""
    while not pool.on_host(host, "is_listening"):
        if pool.stopping.wait(_POLL):
            raise Failure("INTERNAL_ERROR", "xapi is being stopped")


def forget(pool, host, uuid):
    """Have xenopsd forget a VM; one that it does not know, or that runs, is no error
    (Xenopsd_metadata.delete)."""
    try:
        pool.on_host(host, "xenops", method="VM.remove", members={"debug_info": _DEBUG, "id": uuid})
    except Failure as failure:
        if failure.code not in ("Does_not_exist", "Bad_power_state"):
            raise


def _is_resident(database, vm, host):
    return database.exists("VM", vm) and database.get("VM", vm, "resident_on") == host


def update_vm(pool, vm, host):
    """An event of xenopsd on a VM, by the rules of `update_vm` (xapi_xenops.ml): only of one that
    is resident there; and of a VM that xenopsd does not know (any more) nothing is learnt. One that
    is halted is forgotten there, one that is suspended as well."""
    database = pool.database
    if not _is_resident(database, vm, host):
        return
    uuid = database.get("VM", vm, "uuid")
    state = stat(pool, host, uuid)
    if state is None:
        log.info("event on VM %s, which xenopsd does not know", uuid)
        return
    with database.lock:
        if not _is_resident(database, vm, host):
            return
        if state["power_state"] in _AT_REST:
            if state["power_state"] == "Halted":
                _end_protection(database, vm)
            vm_lifecycle.reset(database, vm, state["power_state"])
        else:
            database.set(
                "VM", vm, power_state=state["power_state"], domid=int(state.get("domid", -1))
            )
            _update_disks(database, vm, state["disks"])
            _update_vifs(database, vm, state["vifs"])
            _update_guest_metrics(database, vm, state.get("guest", {}))
    if state["power_state"] in _AT_REST:
        rrd_service.archive(pool, host, uuid)
        forget(pool, host, uuid)


def _end_protection(database, vm):
    """Of a VM that has shut down by itself HA takes no notice where the pool says so; the others it
    starts again."""
    pool = database.refs("pool")[0]
    if not database.get("pool", pool, "ha_reboot_vm_on_internal_shutdown"):
        database.set("VM", vm, ha_always_run=False)


def update_vbds(pool, vm, host):
    """An event of xenopsd on the disks of a VM, by the rules of `update_vbd`: as above. The VDI of
    one that is plugged is taken over at once."""
    database = pool.database
    state = (
        stat(pool, host, database.get("VM", vm, "uuid"))
        if _is_resident(database, vm, host)
        else None
    )
    with database.lock:
        if state is not None and _is_resident(database, vm, host):
            _update_disks(database, vm, state["disks"])


def refresh(pool, vm, host):
    """Bring the objects of a VM up to date with what `host`'s xenopsd says. Raises where xenopsd
    cannot be asked.

    A VM that is on another host is left alone. The VDI of each plugged disk is taken from xenopsd:
    that is how the disks of a VM that moved within the pool change in place.
    """
    database = pool.database
    await_events(pool, host)
    uuid = database.get("VM", vm, "uuid")
    state = stat(pool, host, uuid)
    if _has_halted(database, vm, host, state):
        rrd_service.archive(pool, host, uuid)


def _has_halted(database, vm, host, state):
    """Note what xenopsd says; whether the VM has halted since."""
    with database.lock:
        if not database.exists("VM", vm) or database.get("VM", vm, "resident_on") not in (
            host,
            NULL,
        ):
            return False
        power_state = state["power_state"] if state else "Halted"
        if power_state == "Halted":
            if database.get("VM", vm, "resident_on") == host:
                _end_protection(database, vm)
                vm_lifecycle.reset(database, vm)
                return True
            return False
        if database.get("VM", vm, "resident_on") == NULL and power_state != "Running":
            return False  # being received: it is ours only once it runs
        database.set(
            "VM", vm, resident_on=host, power_state=power_state, domid=int(state.get("domid", -1))
        )
        _update_disks(database, vm, state["disks"])
        _update_vifs(database, vm, state["vifs"])
        _update_guest_metrics(database, vm, state.get("guest", {}))
        return False


def _update_disks(database, vm, disks):
    by_device = {disk["device"]: disk for disk in disks}
    for vbd in database.get("VM", vm, "VBDs"):
        record = database.record("VBD", vbd)
        if record["type"] != "Disk":
            continue
        disk = by_device.get(record["device"] or device_name(record["userdevice"]))
        if disk is None or not disk["plugged"]:
            # so a plug that has failed leaves the VBD as one that is (update_vbd: `active`)
            database.set("VBD", vbd, currently_attached=bool(disk and disk.get("active")))
            continue
        vdi = vdi_of(database, disk["vdi"])
        if vdi is None:
            log.error("VM %s has disk %s plugged, of which there is no VDI", vm, disk["vdi"])
        database.set(
            "VBD", vbd, currently_attached=True, device=disk["device"], VDI=vdi or record["VDI"]
        )


def _update_vifs(database, vm, vifs):
    plugged = {str(vif["device"]) for vif in vifs if vif.get("plugged", True)}
    for vif in database.get("VM", vm, "VIFs"):
        database.set("VIF", vif, currently_attached=database.get("VIF", vif, "device") in plugged)


def _update_guest_metrics(database, vm, guest):
    metrics = database.get("VM", vm, "guest_metrics")
    if not guest:
        return
    if not database.exists("VM_guest_metrics", metrics):
        metrics = database.create("VM_guest_metrics", {})
        database.set("VM", vm, guest_metrics=metrics)
    database.set(
        "VM_guest_metrics",
        metrics,
        live=True,
        last_updated=Timestamp.now(),
        other={
            key: str(value) for key, value in guest.items() if isinstance(value, (str, int, float))
        },
    )
