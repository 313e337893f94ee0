# SPDX-License-Identifier: LGPL-2.1-only
"""VM.assert_can_migrate: whether a VM may be moved there (xapi_vm_migrate.ml, xapi_vm_helpers.ml),
in xapi's order.

Of a host this knows version, virtual hardware, the number of processors, whether it is enabled, the
networks, and, within the pool, memory (that of another pool's is looked at by the import alone);
not what a processor can do, nor devices passed through."""

import urllib.parse
import xmlrpc.client

from lab.xapi import memory
from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

FROM = ("VDI_SNAPSHOT", "VDI_MIRROR")  # features of a driver that a disk leaves
# of one that it comes to; VDI_MIRROR implies VDI_MIRROR_IN (smint.ml)
INTO = ("VDI_SNAPSHOT", "VDI_MIRROR_IN")
_TIMEOUT = 30.0


@call(
    "VM.assert_can_migrate",
    "vm:ref(VM) dest:map(string,string) live:bool vdi_map:map(ref(VDI),ref(SR)) "
    "vif_map:map(ref(VIF),ref(network)) options:map(string,string) "
    "vgpu_map:map(ref(VGPU),ref(GPU_group))?",
)
def assert_can_migrate(context, vm, dest, _live, vdi_map, vif_map, options, _vgpu_map):
    database = context.database
    record = database.record("VM", vm)
    inside = database.exists("host", dest["host"])
    there = _Here(database) if inside else _There(dest)
    for vbd in (database.record("VBD", ref) for ref in record["VBDs"]):
        if not vbd["empty"] and vbd["type"] != "CD" and vbd["VDI"] not in vdi_map:
            raise Failure("VDI_NOT_IN_MAP", vbd["VDI"])
    source = record["resident_on"] if record["resident_on"] != NULL else context.pool.master
    host = there.record("host", dest["host"])
    if _version(host) < _version(database.record("host", source)):
        raise (
            Failure("NOT_SUPPORTED_DURING_UPGRADE")
            if inside
            else Failure("VM_HOST_INCOMPATIBLE_VERSION_MIGRATE", vm, dest["host"])
        )
    _check_features(database, there, vdi_map)
    copied = options.get("copy") == "true" and options.get("force") != "true"
    if not inside and copied and record["power_state"] != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted", record["power_state"].lower())
    if not (inside and record["resident_on"] == dest["host"]) and not host["enabled"]:
        raise Failure("HOST_DISABLED", dest["host"])
    if int(record["hardware_platform_version"]) not in [
        int(version) for version in host["virtual_hardware_platform_versions"]
    ]:
        raise Failure(
            "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION",
            dest["host"],
            *[
                "[%s]" % "; ".join(map(str, host["virtual_hardware_platform_versions"])),
                vm,
                record["hardware_platform_version"],
            ],
        )
    if inside:
        memory.require(database, dest["host"], record, vm)
    if int(record["VCPUs_max"]) > int(host["cpu_info"]["cpu_count"]):
        raise Failure("HOST_NOT_ENOUGH_PCPUS", record["VCPUs_max"], host["cpu_info"]["cpu_count"])
    if inside and vif_map:
        raise Failure(
            "OPERATION_NOT_ALLOWED",
            "VIF mapping is not allowed for intra-pool migration -all VIFs must be on the same "
            "network",
        )
    if not inside:
        _check_interfaces(database, record, vif_map)
    for vdi, sr in vdi_map.items():
        if sr != database.get("VDI", vdi, "SR"):
            if database.get("VDI", vdi, "cbt_enabled"):
                raise Failure("VDI_CBT_ENABLED", vdi)
            if "key_hash" in database.get("VDI", vdi, "sm_config"):
                raise Failure("VDI_IS_ENCRYPTED", vdi)


def _check_interfaces(database, record, vif_map):
    """Each of the VM (its record) and of its snapshots is mapped, or has the MAC address of one
    that is (xapi_vm_migrate.ml, infer_vif_map)."""
    owned = [record] + [database.record("VM", ref) for ref in record["snapshots"]]
    known = {database.get("VIF", vif, "MAC") for vif in vif_map}
    for vif in (vif for vm in owned for vif in vm["VIFs"]):
        if vif not in vif_map and database.get("VIF", vif, "MAC") not in known:
            raise Failure("VIF_NOT_IN_MAP", vif)


def _check_features(database, there, vdi_map):
    here = _Here(database)
    for vdi, sr in vdi_map.items():
        own = database.get("VDI", vdi, "SR")
        if own == sr:
            continue
        for pool, one, wanted in ((here, own, FROM), (there, sr, INTO)):
            features = pool.features(pool.record("SR", one)["type"])
            missing = [name for name in wanted if name not in features]
            if missing:
                raise Failure("SR_DOES_NOT_SUPPORT_MIGRATION", one, ";".join(missing))


def _version(host):
    return [int(part) for part in host["software_version"]["platform_version"].split(".")]


class _Here:
    """The objects of this pool."""

    def __init__(self, database):
        self._database = database

    def record(self, class_name, ref):
        """The record of a ref."""
        return self._database.record(class_name, ref)

    def records(self, class_name):
        """All of a class."""
        return self._database.records(class_name)

    def features(self, sr_type):
        """What the driver of a type of SR can do."""
        found = [set(sm["features"]) for sm in self.records("SM").values() if sm["type"] == sr_type]
        features = found[0] if len(found) == 1 else set()
        return features | ({"VDI_MIRROR_IN"} if "VDI_MIRROR" in features else set())


class _There(_Here):
    """Those of another pool, by the token of host.migrate_receive."""

    def __init__(self, dest):
        self._session = dest["session_id"]
        self._address = urllib.parse.urlsplit(dest["master"]).hostname
        self._server = xmlrpc.client.ServerProxy(dest["master"], transport=_Transport())

    def record(self, class_name, ref):
        return self._ask(class_name, "get_record", ref)

    def records(self, class_name):
        return self._ask(class_name, "get_all_records")

    def _ask(self, class_name, method, *arguments):
        try:
            answer = getattr(getattr(self._server, class_name), method)(self._session, *arguments)
        except OSError:
            raise Failure("CANNOT_CONTACT_HOST", self._address) from None
        if answer["Status"] != "Success":
            raise Failure.of(answer["ErrorDescription"])
        return answer["Value"]


class _Transport(xmlrpc.client.Transport):
    def make_connection(self, host):
        connection = super().make_connection(host)
        connection.timeout = _TIMEOUT
        return connection
