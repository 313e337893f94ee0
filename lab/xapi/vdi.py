# SPDX-License-Identifier: LGPL-2.1-only
"""VDI: virtual disks. What touches storage runs the SM driver, which keeps the VDI objects itself,
as SMAPIv1 does."""

import uuid

from lab.xapi import switch, tables, tracking
from lab.xapi.calls import call, hidden, modelled
from lab.xapi.failures import Failure
from lab.xapi.operations import Operation
from lab.xapi.schema import NULL, Timestamp, construct
from lab.xapi.sessions import assert_internal_access
from lab.xapi.storage import member

OPERATIONS = [
    "snapshot",
    "clone",
    "copy",
    "resize",
    "update",
    "destroy",
    "forget",
    "generate_config",
    "set_on_boot",
]
_AS_GIVEN = ("name_label", "name_description", "type", "sharable", "read_only", "other_config")
"""The fields of a new VDI that are its caller's, whatever the driver has made of them."""
_FIELDS = [parameter.name for parameter in modelled("VDI.introduce")]


def _boolean(value):
    return "true" if value else "false"


def _of_driver(database, answer):
    """The VDI object that a driver's answer names (the driver has made it). Raises VDI_MISSING-like
    backend failure."""
    vdi = database.find_uuid("VDI", member(answer, "uuid"))
    if vdi is None:
        raise Failure(
            "SR_BACKEND_FAILURE", "", "the driver did not introduce VDI %s" % answer["uuid"], ""
        )
    return vdi


def assert_managed(database, vdi):
    """Raises VDI_NOT_MANAGED [vdi] (xapi_vdi_helpers.ml)."""
    if not database.get("VDI", vdi, "managed"):
        raise Failure("VDI_NOT_MANAGED", vdi)


def _operation(context, vdi, name):
    """While it lasts another operation on the VDI waits. Raises VDI_NOT_MANAGED or VDI_IS_SHARABLE
    [vdi]."""

    def admit():
        if name != "forget":  # xapi_vdi.ml: all the others assert it
            assert_managed(context.database, vdi)
        # xapi_vdi.ml, check_operation_error
        tracking.require_data(context.database, vdi, name)
        if name == "snapshot" and context.database.get("VDI", vdi, "sharable"):
            raise Failure("VDI_IS_SHARABLE", vdi)

    return Operation(context, "VDI", vdi, name, admit)


@call("VDI.create", "args:record(VDI)")
def create(context, args):
    made = construct("VDI", args)
    context.database.get("SR", made["SR"], "uuid")
    with Operation(context, "SR", made["SR"], "vdi_create"):
        answer = context.pool.storage.run_sr(
            made["SR"],
            "vdi_create",
            [
                made["virtual_size"],
                made["name_label"],
                made["name_description"],
                "",
                "false",
                "19700101T00:00:00Z",
                "",
                _boolean(made["read_only"]),
            ],
            task=context.task,
            vdi_sm_config=made.get("sm_config", {}),
            vdi_type=made["type"],
        )
    vdi = _of_driver(context.database, answer)
    kept = {name: made[name] for name in _AS_GIVEN}
    kept.update((name, made[name]) for name in ("tags", "xenstore_data") if name in made)
    context.database.set("VDI", vdi, allowed_operations=OPERATIONS, **kept)
    return vdi


def _derived(context, vdi, operation, driver_params):
    """Snapshot or clone; answers the new VDI, with what xapi itself keeps of the old one."""
    database, storage = context.database, context.pool.storage
    storage.host_for(database.get("VDI", vdi, "SR"))
    with _operation(context, vdi, operation) as running, storage.exclusively(vdi):
        if operation == "snapshot":
            host = storage.host_for(database.get("VDI", vdi, "SR"))
            with switch.asked(
                context.pool, host, switch.SNAPSHOT, running.record["uuid"], driver_params or {}
            ):
                new = _made_by_layer(context.pool, vdi, "vdi_snapshot", driver_params, context.task)
        else:
            new = _made_by_layer(context.pool, vdi, "vdi_clone", driver_params, context.task)
        kept = {
            name: running.record[name]
            for name in (
                "name_label",
                "name_description",
                "type",
                "sharable",
                "other_config",
                "xenstore_data",
                "on_boot",
                "allow_caching",
                "tags",
            )
        }
        database.set("VDI", new, allowed_operations=OPERATIONS, **kept)
    return new


def _made_by_layer(pool, vdi, command, driver_params, task=None):
    """What the storage layer does (storage_smapiv1.ml, snapshot_and_clone), of a snapshot and of a
    clone; whose it is, and the rest, xapi notes when it has the answer."""
    new = _of_driver(
        pool.database, pool.storage.run_vdi(vdi, command, task=task, driver_params=driver_params)
    )
    named = {
        name: pool.database.get("VDI", vdi, name) for name in ("name_label", "name_description")
    }
    contents = pool.database.get("VDI", vdi, "other_config")
    pool.database.set(
        "VDI",
        new,
        is_a_snapshot=command == "vdi_snapshot",
        snapshot_time=Timestamp.now(),
        other_config={"content_id": contents.get("content_id", str(uuid.uuid4()))},
        allowed_operations=OPERATIONS,
        **named,
    )
    return new


def snapshot_again(pool, vdi_uuid, driver_params):
    """For the message switch: a request that a xapi which was killed has not answered."""
    vdi = pool.database.find_uuid("VDI", vdi_uuid)
    if vdi:
        with pool.storage.exclusively(vdi):
            _made_by_layer(pool, vdi, "vdi_snapshot", driver_params)


@call("VDI.snapshot", "vdi:ref(VDI) driver_params:map(string,string)?")
def snapshot(context, vdi, driver_params):
    new = _derived(context, vdi, "snapshot", driver_params)
    context.database.set(
        "VDI", new, is_a_snapshot=True, snapshot_of=vdi, snapshot_time=Timestamp.now()
    )
    return new


@call("VDI.clone", "vdi:ref(VDI) driver_params:map(string,string)?")
def clone(context, vdi, driver_params):
    new = _derived(context, vdi, "clone", driver_params)
    context.database.set("VDI", new, is_a_snapshot=False, snapshot_of=NULL)
    return new


@call("VDI.resize", "vdi:ref(VDI) size:int")
def resize(context, vdi, size):
    with _operation(context, vdi, "resize"), context.pool.storage.exclusively(vdi):
        _refuse_attached(context.database, vdi, "resize")
        context.pool.storage.run_vdi(vdi, "vdi_resize", [size], task=context.task)


@call("VDI.copy", "vdi:ref(VDI) sr:ref(SR)? base_vdi:ref(VDI)? into_vdi:ref(VDI)?")
def copy(context, vdi, _sr, _base_vdi, _into_vdi):
    """Only refused, as xapi does before it begins: this one has no dom0 to plug the disks into."""
    with _operation(context, vdi, "copy"):
        raise Failure("NOT_IMPLEMENTED", "VDI.copy")


def _refuse_attached(database, vdi, operation):
    if any(
        database.get("VBD", vbd, "currently_attached") for vbd in database.get("VDI", vdi, "VBDs")
    ):
        raise Failure("VDI_IN_USE", vdi, operation)


@call("VDI.destroy", "self:ref(VDI)")
def destroy(context, self):
    database, storage = context.database, context.pool.storage
    storage.host_for(database.get("VDI", self, "SR"))
    with _operation(context, self, "destroy"), storage.exclusively(self):
        _refuse_attached(database, self, "destroy")
        storage.remove_datapaths(self, storage.host_for(database.get("VDI", self, "SR")))
        vbds = database.get("VDI", self, "VBDs")
        with Operation(context, "SR", database.get("VDI", self, "SR"), "vdi_destroy"):
            storage.run_vdi(self, "vdi_delete", task=context.task)
        _remove_object(database, self, vbds)
        for vm in database.where("VM", suspend_VDI=self):
            database.set("VM", vm, suspend_VDI=NULL)


def _remove_object(database, vdi, vbds):
    with database.lock:
        for class_name, refs in (("VBD", vbds), ("VDI", [vdi])):
            for ref in refs:
                # the driver has usually removed the VDI itself
                if database.exists(class_name, ref):
                    database.destroy(class_name, ref)


@call("VDI.update", "vdi:ref(VDI)")
def update(context, vdi):
    context.pool.storage.run_vdi(vdi, "vdi_update", task=context.task)


@call("VDI.forget", "vdi:ref(VDI)")
def forget(context, vdi):
    """Remove the object and leave the image."""
    with _operation(context, vdi, "forget"):
        _refuse_attached(context.database, vdi, "forget")
    _remove_object(context.database, vdi, context.database.get("VDI", vdi, "VBDs"))


@hidden("VDI.db_forget")
def db_forget(context, vdi):
    """The object alone: how drivers remove theirs."""
    assert_internal_access(context, context.database.get("VDI", vdi, "SR"))
    _remove_object(context.database, vdi, context.database.get("VDI", vdi, "VBDs"))


@call("VDI.introduce", tables.VDI_INTRODUCED)
def introduce(context, *values):
    """Have the driver make an object for an image that is there."""
    given = dict(zip(_FIELDS, values))
    with Operation(context, "SR", given["SR"], "vdi_introduce"):
        answer = context.pool.storage.run_sr(
            given["SR"],
            "vdi_introduce",
            [given["name_label"], given["name_description"]],
            task=context.task,
            vdi_location=given["location"],
            vdi_sm_config=given["sm_config"],
            new_uuid=given["uuid"],
        )
    vdi = _of_driver(context.database, answer)
    context.database.set(
        "VDI", vdi, allowed_operations=OPERATIONS, **{name: given[name] for name in _AS_GIVEN}
    )
    return vdi


@hidden("VDI.db_introduce")
def db_introduce(context, *values):
    """An object alone, without any driver: how drivers make theirs. Raises LOCATION_NOT_UNIQUE [SR,
    location]."""
    assert_internal_access(context, values[_FIELDS.index("SR")])
    return pool_introduce(context, *values)


@hidden("VDI.pool_introduce")
def pool_introduce(context, *values):
    """The same, for a host that joins the pool."""
    fields = dict(zip(_FIELDS + ["cbt_enabled"], values))
    fields["allowed_operations"] = OPERATIONS
    database = context.database
    database.get("SR", fields["SR"], "uuid")
    with database.lock:
        if database.where("VDI", SR=fields["SR"], location=fields["location"]):
            raise Failure("LOCATION_NOT_UNIQUE", fields["SR"], fields["location"])
        if database.find_uuid("VDI", fields["uuid"]):
            raise Failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", "VDI", "uuid", fields["uuid"])
        return database.create("VDI", fields)
