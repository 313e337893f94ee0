# SPDX-License-Identifier: LGPL-2.1-only
"""VDI: changed block tracking, and the snapshots of which it alone is left (xapi_vdi.ml).

Which blocks have changed (VDI.list_changed_blocks) is not answered: no tapdisk of the lab notes
it."""

import time

from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.operations import Operation

FEATURE = "VDI_CONFIG_CBT"
METADATA = "cbt_metadata"
TRACKED_TYPES = ("user", "system")
RESTRICTION = "restrict_cbt"
WITHOUT_DATA = ("destroy", "forget", "update", "generate_config", "data_destroy")
"""What is done with a VDI of which only the metadata are left."""
VBDS_TIMEOUT = 4.0
"""Seconds in which the VBDs of a snapshot have to go, before its data do."""
VBDS_POLL = 0.05


def require_data(database, vdi, operation):
    """Raises VDI_INCOMPATIBLE_TYPE [vdi, type] for what cannot be done without a VDI's data."""
    if operation not in WITHOUT_DATA and database.get("VDI", vdi, "type") == METADATA:
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, "CBT metadata")


def require_untracked(database, vdi):
    """Raises VDI_CBT_ENABLED [vdi]."""
    if database.get("VDI", vdi, "cbt_enabled"):
        raise Failure("VDI_CBT_ENABLED", vdi)


@call("VDI.set_on_boot", "self:ref(VDI) value:enum(on_boot)", is_async=False)
def set_on_boot(context, self, value):
    """Of what xapi asks of the VDI this only looks at its tracking."""
    require_untracked(context.database, self)
    context.database.set("VDI", self, on_boot=value)


@call("VDI.enable_cbt", "self:ref(VDI)")
def enable_cbt(context, self):
    """Idempotent, as the record has it: the driver is not asked then."""
    _change(context, self, "enable_cbt", True)


@call("VDI.disable_cbt", "self:ref(VDI)")
def disable_cbt(context, self):
    """As `enable_cbt`."""
    _change(context, self, "disable_cbt", False)


def _change(context, vdi, operation, enabled):
    database, storage = context.database, context.pool.storage
    sr = database.get("VDI", vdi, "SR")
    storage.host_for(sr)

    def admit():
        _require_feature(database, sr)
        require_data(database, vdi, operation)
        record = database.record("VDI", vdi)
        if record["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", "VDI is a snapshot: " + vdi)
        if record["type"] not in TRACKED_TYPES:
            kind = record["type"].replace("_", " ").capitalize()  # as far as its names are regular
            raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, kind)
        if record["on_boot"] == "reset":
            raise Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")

    with Operation(context, "VDI", vdi, operation, admit), storage.exclusively(vdi):
        with Operation(context, "SR", sr, "vdi_" + operation):
            if enabled:
                _require_licence(database)
            if database.get("VDI", vdi, "cbt_enabled") != enabled:
                storage.run_vdi(vdi, "vdi_" + operation, task=context.task)
                database.set("VDI", vdi, cbt_enabled=enabled)


@call("VDI.data_destroy", "self:ref(VDI)")
def data_destroy(context, self):
    """Have only the metadata of a snapshot left."""
    database, storage = context.database, context.pool.storage
    sr = database.get("VDI", self, "SR")
    storage.host_for(sr)

    def admit():
        _require_feature(database, sr)
        record = database.record("VDI", self)
        if not record["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", "VDI is not a snapshot: " + self)
        if not record["cbt_enabled"]:
            raise Failure("VDI_NO_CBT_METADATA", self)

    with Operation(context, "VDI", self, "data_destroy", admit), storage.exclusively(self):
        with Operation(context, "SR", sr, "vdi_data_destroy"):
            kind = database.get("VDI", self, "type")
            if kind == METADATA:
                return
            database.set("VDI", self, type=METADATA)
            try:
                _await_no_vbds(database, self)
                storage.remove_datapaths(self, storage.host_for(sr))
                storage.run_vdi(self, "vdi_data_destroy", task=context.task)
            except BaseException:
                database.set("VDI", self, type=kind)
                raise


def _require_licence(database):
    """Raises LICENCE_RESTRICTION [feature]."""
    (pool,) = database.records("pool").values()
    if pool["restrictions"].get(RESTRICTION) == "true":
        raise Failure("LICENCE_RESTRICTION", "CBT")


def _await_no_vbds(database, vdi):
    end = time.monotonic() + VBDS_TIMEOUT
    while database.get("VDI", vdi, "VBDs"):
        if time.monotonic() > end:
            raise Failure("VDI_IN_USE", vdi, "data_destroy")
        time.sleep(VBDS_POLL)


def _require_feature(database, sr):
    (driver,) = database.where("SM", type=database.get("SR", sr, "type"))
    if FEATURE not in database.get("SM", driver, "features"):
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
