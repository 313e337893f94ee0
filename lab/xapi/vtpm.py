# SPDX-License-Identifier: LGPL-2.1-only
"""VTPM: virtual TPMs (xapi_vtpm.ml). What is in one is kept as an object of class secret, and no
record names it."""

from lab.xapi import vm_lifecycle
from lab.xapi.calls import call, hidden
from lab.xapi.failures import Failure

RESTRICTION = "restrict_vtpm"
_DESTROYED_IN = ("Halted", "Suspended")


@call("VTPM.create", "vM:ref(VM) is_unique:bool")
def create(context, vm, is_unique):
    with vm_lifecycle.operation(context, vm, "create_vtpm"):
        return make(context.database, vm, is_unique)


def make(database, vm, is_unique):
    """A TPM of a VM, with nothing in it, whatever the VM's power state; its ref. Raises
    FEATURE_RESTRICTED, VTPM_MAX_AMOUNT_REACHED."""
    with database.lock:
        (pool,) = database.refs("pool")
        if database.get("pool", pool, "restrictions").get(RESTRICTION) != "false":
            raise Failure("FEATURE_RESTRICTED", RESTRICTION)
        present = database.get("VM", vm, "VTPMs")
        if present:
            raise Failure("VTPM_MAX_AMOUNT_REACHED", len(present))
        return _introduce(database, vm, is_unique, "")


def _introduce(database, vm, is_unique, text):
    contents = database.create("secret", {"value": text})
    fields = {"VM": vm, "is_unique": is_unique, "contents": contents}
    return database.create("VTPM", fields)


def copy(database, vm, vtpm):
    """One for another VM with the same in it; with nothing if it is unique."""
    with database.lock:
        is_unique = database.get("VTPM", vtpm, "is_unique")
        text = "" if is_unique else contents(database, vtpm)
        return _introduce(database, vm, is_unique, text)


@call("VTPM.destroy", "self:ref(VTPM)")
def destroy(context, self):
    vm = context.database.get("VTPM", self, "VM")
    remove(context.database, self)
    vm_lifecycle.update_allowed_operations(context.database, vm)


def remove(database, vtpm):
    """Destroy it, with what is in it. Raises VM_BAD_POWER_STATE."""
    with database.lock:
        vm = database.get("VTPM", vtpm, "VM")
        state = database.get("VM", vm, "power_state")
        if state not in _DESTROYED_IN:
            allowed = ";".join(_DESTROYED_IN).lower()
            raise Failure("VM_BAD_POWER_STATE", vm, allowed, state.lower())
        database.destroy("secret", database.get("VTPM", vtpm, "contents"))
        database.destroy("VTPM", vtpm)


@hidden("VTPM.get_contents")
def get_contents(context, self):
    return contents(context.database, self)


def contents(database, vtpm):
    """What is in it: three texts in base64 with a space between them, as xapi-guard keeps them."""
    with database.lock:
        return database.get("secret", database.get("VTPM", vtpm, "contents"), "value")


@hidden("VTPM.set_contents")
def set_contents(context, self, contents):
    put(context.database, self, contents)


def put(database, vtpm, text):
    """Have this in it. That it is base64 xapi asks for, and takes no answer (Base64.decode returns
    a result, which is dropped)."""
    with database.lock:
        former = database.get("VTPM", vtpm, "contents")
        database.set("VTPM", vtpm, contents=database.create("secret", {"value": text}))
        database.destroy("secret", former)
