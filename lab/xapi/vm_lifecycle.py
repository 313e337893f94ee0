# SPDX-License-Identifier: LGPL-2.1-only
"""What may be done to a VM, and when: power states, blocked and current operations."""

import contextlib

from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

_MIGRATIONS = ("pool_migrate", "migrate_send")
_ANY = ("Halted", "Paused", "Running", "Suspended")

# operation -> power states in which it is allowed (only those that this xapi can do, or whose
# blocking has an effect)
OPERATIONS = {
    "start": ("Halted",),
    "start_on": ("Halted",),
    "destroy": ("Halted", "Suspended"),
    "create_vtpm": ("Halted",),
    "clean_shutdown": ("Running",),
    "hard_shutdown": ("Paused", "Running", "Suspended"),
    "clean_reboot": ("Running",),
    "hard_reboot": ("Paused", "Running"),
    "suspend": ("Running",),
    "resume": ("Suspended",),
    "resume_on": ("Suspended",),
    "pause": ("Running",),
    "unpause": ("Paused",),
    "checkpoint": ("Paused", "Running", "Suspended"),
    "clone": ("Halted", "Suspended"),
    "copy": ("Halted", "Suspended"),
    "revert": _ANY,
    "reverting": _ANY,
    "snapshot": _ANY,
    "metadata_export": _ANY,
    "power_state_reset": _ANY,
    "update_allowed_operations": _ANY,
    "pool_migrate": ("Running", "Suspended"),
    "migrate_send": ("Halted", "Running", "Suspended"),
}
_FOR_TEMPLATES = ("destroy", "metadata_export", "update_allowed_operations")
# xapi_vm_lifecycle.ml, check_snapshot; "update_allowed_operations" is a call that it never checks
_FOR_SNAPSHOTS = _FOR_TEMPLATES + ("revert", "clone", "copy", "hard_shutdown")
# what a device of its host forbids a VM, by the field that has those, in any power state (PCIs are
# attached as it starts): xapi_vm_lifecycle.ml, get_operation_error
_HELD_BY = (
    ("attached_PCIs", "VM_HAS_PCI_ATTACHED", ("suspend", "checkpoint", *_MIGRATIONS)),
    ("VUSBs", "VM_HAS_VUSBS", ("suspend", "snapshot", "checkpoint", *_MIGRATIONS)),
)
# do not mind what else is going on
_BESIDE_OTHERS = ("metadata_export", "update_allowed_operations")


def refusal(ref, record, operation):
    """The Failure with which xapi refuses the operation now, or None."""
    if operation in record["blocked_operations"]:
        return Failure("OPERATION_BLOCKED", ref, record["blocked_operations"][operation])
    others = {
        key: name
        for key, name in record["current_operations"].items()
        if name not in _BESIDE_OTHERS
    }
    states = OPERATIONS[operation]
    if record["power_state"] not in states:  # the first that xapi looks at (check_operation_error)
        expected = ", ".join(state.lower() for state in states)
        return Failure("VM_BAD_POWER_STATE", ref, expected, record["power_state"].lower())
    if others and operation not in _BESIDE_OTHERS:
        return Failure("OTHER_OPERATION_IN_PROGRESS", "VM", ref, *sorted(others.values())[:1])
    if record["is_a_snapshot"] and operation not in _FOR_SNAPSHOTS:
        return Failure("VM_IS_SNAPSHOT", ref, operation)
    templates = record["is_a_template"] and not record["is_a_snapshot"]
    if templates and operation not in _FOR_TEMPLATES:
        return Failure("VM_IS_TEMPLATE", ref, operation)
    if record["is_control_domain"]:
        return Failure("OPERATION_NOT_ALLOWED", "Operations on domain 0 are not allowed")
    for field, code, forbidden in _HELD_BY:
        if record[field] and operation in forbidden:
            return Failure(code, ref)
    if operation == "revert" and not record["is_a_snapshot"]:
        return Failure("REVERT_ONLY_ALLOWED_ON_SNAPSHOT")
    if operation == "create_vtpm" and record["VTPMs"]:
        return Failure("VTPM_MAX_AMOUNT_REACHED", len(record["VTPMs"]))
    return None


def update_allowed_operations(database, ref):
    """Bring the allowed_operations of a VM and of its virtual TPM up to date."""
    record = database.record("VM", ref)
    allowed = [name for name in OPERATIONS if refusal(ref, record, name) is None]
    database.set("VM", ref, allowed_operations=allowed)
    for vtpm in record["VTPMs"]:
        destroy = ["destroy"] if record["power_state"] == "Halted" else []
        database.set("VTPM", vtpm, allowed_operations=destroy)


def watch(database):
    """Keep every VM's allowed_operations up to date."""

    def recompute(ref):
        update_allowed_operations(database, ref)

    database.on_change(
        "VM",
        (
            "power_state",
            "blocked_operations",
            "current_operations",
            "is_a_template",
            "is_a_snapshot",
            "is_control_domain",
        ),
        recompute,
    )
    for ref in database.refs("VM"):
        recompute(ref)


@contextlib.contextmanager
def operation(context, vm, name):
    """Do an operation on a VM: refused where it is not allowed, in its current_operations while it
    lasts."""
    database = context.database
    key = context.task or "OpaqueRef:call-%s" % id(context)
    with database.lock:
        failure = refusal(vm, database.record("VM", vm), name)
        if failure:
            raise failure
        database.add_to("VM", vm, "current_operations", key, name)
    try:
        yield
    finally:
        with database.lock:
            if database.exists("VM", vm):
                database.remove_from("VM", vm, "current_operations", key)


def reset(database, vm, state="Halted"):
    """Make the objects say that the VM is halted, or suspended: that one's devices stay as they
    were."""
    with database.lock:
        for class_name, field in (("VBD", "VBDs"), ("VIF", "VIFs")) if state == "Halted" else ():
            for device in database.get("VM", vm, field):
                database.set(class_name, device, currently_attached=False)
        database.set(
            "VM",
            vm,
            power_state=state,
            resident_on=NULL,
            scheduled_to_be_resident_on=NULL,
            domid=-1,
        )
