# SPDX-License-Identifier: LGPL-2.1-only
"""SR and PBD: storage repositories and the connections of hosts to them."""

from lab.xapi.calls import call
from lab.xapi.database import new_uuid
from lab.xapi.failures import Failure
from lab.xapi.operations import Operation
from lab.xapi.schema import construct

OPERATIONS = [
    "scan",
    "update",
    "destroy",
    "forget",
    "plug",
    "unplug",
    "pbd_create",
    "pbd_destroy",
    "vdi_create",
    "vdi_introduce",
    "vdi_destroy",
    "vdi_resize",
    "vdi_clone",
    "vdi_snapshot",
]
_DESCRIPTION = "name_label:string name_description:string type:string content_type:string shared:bool sm_config:map(string,string)?"  # noqa: E501


def _make_pbd(database, host, sr, device_config, other_config=None):
    database.get("host", host, "uuid")
    database.get("SR", sr, "uuid")
    if database.where("PBD", SR=sr, host=host):
        raise Failure("PBD_EXISTS", sr, host, database.where("PBD", SR=sr, host=host)[0])
    return database.create(
        "PBD",
        {
            "host": host,
            "SR": sr,
            "device_config": device_config,
            "other_config": other_config or {},
        },
    )


@call("SR.introduce", "uuid:string " + _DESCRIPTION)
def introduce(context, uuid, label, description, sr_type, content_type, shared, sm_config):
    """An SR object, without touching any storage."""
    if not context.pool.storage.is_supported(sr_type):
        raise Failure("SR_UNKNOWN_DRIVER", sr_type)
    return context.database.create(
        "SR",
        {
            "uuid": uuid or new_uuid(),
            "name_label": label,
            "name_description": description,
            "type": sr_type,
            "content_type": content_type,
            "shared": shared,
            "sm_config": sm_config,
            "allowed_operations": OPERATIONS,
        },
    )


@call(
    "SR.create", "host:ref(host) device_config:map(string,string) physical_size:int " + _DESCRIPTION
)
def create(
    context,
    host,
    device_config,
    physical_size,
    label,
    description,
    sr_type,
    content_type,
    shared,
    sm_config,
):
    """Make the storage and the SR object, with a PBD for the host (for all hosts if it is shared),
    plugged."""
    database = context.database
    database.get("host", host, "uuid")
    sr = introduce(context, "", label, description, sr_type, content_type, shared, sm_config)
    hosts = [host] + [other for other in database.refs("host") if shared and other != host]
    pbds = [_make_pbd(database, each, sr, device_config) for each in hosts]
    try:
        context.pool.storage.run_sr(sr, "sr_create", [physical_size], host=host, task=context.task)
        for pbd in pbds:
            plug(context, pbd)
    except Failure:
        for pbd in pbds:
            database.destroy("PBD", pbd)
        database.destroy("SR", sr)
        raise
    return sr


@call(
    "SR.probe",
    "host:ref(host) device_config:map(string,string) type:string sm_config:map(string,string)?",
)
def probe(context, host, device_config, sr_type, sm_config):
    return context.pool.storage.run_driver(
        host,
        sr_type,
        "sr_probe",
        [],
        dict(device_config, SRmaster="true"),
        context.task,
        sr_sm_config=sm_config,
    )


@call("SR.scan", "sr:ref(SR)")
def scan(context, sr):
    """Only while nothing else is done with the SR that touches its VDIs (xapi_sr_operations.ml)."""
    with Operation(context, "SR", sr, "scan"):
        _ask_driver(context, sr, "sr_scan")


@call("SR.update", "sr:ref(SR)")
def update(context, sr):
    with Operation(context, "SR", sr, "update"):
        _ask_driver(context, sr, "sr_update")


def _ask_driver(context, sr, command):
    with context.pool.storage.exclusively(sr):
        context.pool.storage.run_sr(sr, command, task=context.task)


def _refuse_plugged(database, sr):
    if any(
        database.get("PBD", pbd, "currently_attached") for pbd in database.get("SR", sr, "PBDs")
    ):
        raise Failure("SR_HAS_PBD", sr)


def _remove_records(database, sr):
    for class_name, refs in (
        ("PBD", database.get("SR", sr, "PBDs")),
        ("VDI", database.get("SR", sr, "VDIs")),
    ):
        for ref in refs:
            database.destroy(class_name, ref)
    database.destroy("SR", sr)


@call("SR.forget", "sr:ref(SR)")
def forget(context, sr):
    """Remove the objects and leave the storage as it is."""
    _refuse_plugged(context.database, sr)
    _remove_records(context.database, sr)


@call("SR.destroy", "sr:ref(SR)")
def destroy(context, sr):
    """Remove the storage and the objects. The driver must find it attached, so it is attached for
    as long as that takes."""
    database, storage = context.database, context.pool.storage
    _refuse_plugged(database, sr)
    pbds = database.get("SR", sr, "PBDs")
    if not pbds:
        raise Failure("SR_HAS_NO_PBDS", sr)
    hosts = [database.get("PBD", pbd, "host") for pbd in pbds]
    host = context.pool.master if context.pool.master in hosts else hosts[0]
    storage.run_sr(sr, "sr_attach", host=host, task=context.task)
    storage.run_sr(sr, "sr_delete", host=host, task=context.task)
    _remove_records(database, sr)


@call("SR.get_supported_types", is_async=False)
def get_supported_types(context):
    return [record["type"] for record in context.database.records("SM").values()]


@call("PBD.create", "args:record(PBD)")
def create_pbd(context, args):
    made = construct("PBD", args)
    return _make_pbd(
        context.database, made["host"], made["SR"], made["device_config"], made.get("other_config")
    )


@call("PBD.plug", "self:ref(PBD)")
def plug(context, self):
    database = context.database
    record = database.record("PBD", self)
    with context.pool.storage.exclusively(record["SR"]):
        if not database.get("PBD", self, "currently_attached"):
            context.pool.storage.attach_sr(record["SR"], record["host"], context.task)
            database.set("PBD", self, currently_attached=True)


@call("PBD.unplug", "self:ref(PBD)")
def unplug(context, self):
    database = context.database
    record = database.record("PBD", self)
    with context.pool.storage.exclusively(record["SR"]):
        if not database.get("PBD", self, "currently_attached"):
            return
        used = _used_vdis(database, record)
        if used:
            raise Failure("VDI_IN_USE", *used)
        context.pool.storage.detach_sr(record["SR"], record["host"], context.task)
        database.set("PBD", self, currently_attached=False)


def _used_vdis(database, pbd):
    """The SR's VDIs that a VM on this PBD's host has attached."""
    used = []
    for vdi in database.get("SR", pbd["SR"], "VDIs"):
        for vbd in database.get("VDI", vdi, "VBDs"):
            record = database.record("VBD", vbd)
            if (
                record["currently_attached"]
                and database.exists("VM", record["VM"])
                and database.get("VM", record["VM"], "resident_on") == pbd["host"]
            ):
                used.append(vdi)
    return used


@call("PBD.destroy", "self:ref(PBD)")
def destroy_pbd(context, self):
    if context.database.get("PBD", self, "currently_attached"):
        raise Failure("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    context.database.destroy("PBD", self)
