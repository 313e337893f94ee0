# SPDX-License-Identifier: LGPL-2.1-only
"""PUT /import_metadata: make a VM from an exported ova.xml (xapi's import.ml, for metadata
alone)."""

import io
import random
import tarfile
from collections import namedtuple

from lab.xapi import gpus, memory, vm as vms, vtpm as vtpms, wire
from lab.xapi.database import new_uuid
from lab.xapi.devices import has_locking, random_mac
from lab.xapi.failures import Failure
from lab.xapi.metadata_export import OVA, XAPI_VERSION
from lab.xapi.networks import next_bridge
from lab.xapi.schema import CLASSES, NULL, coerce, rpc_text
from lab.xapi.xenops import device_name

Options = namedtuple("Options", "restore live dry_run force vdi_map")

MAPPED = "maps_to"  # key of other_config: the VDI or network of this pool to use
TASK = "import_task"  # key of a VM's other_config: the task of its last import, which stays
_SYNCED = ("content_id",)  # keys of a VDI's other_config that are brought over to its counterpart
# of a virtual TPM (importexport.ml, vtpm')
_OF_TPM = {
    "vTPM'_VM": str,
    "vTPM'_uuid": str,
    "vTPM'_is_unique": bool,
    "vTPM'_is_protected": bool,
    "vTPM'_content": str,
}
_LARGEST = 64 << 20  # bytes of ova.xml


def read_ova(data):
    """The exported document in a tar. Raises IMPORT_ERROR_UNEXPECTED_FILE,
    IMPORT_ERROR_PREMATURE_EOF, IMPORT_ERROR_GENERIC."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            member = archive.next()
            if member is None:
                raise Failure("IMPORT_ERROR_PREMATURE_EOF")
            if member.name != OVA or not member.isfile():
                raise Failure("IMPORT_ERROR_UNEXPECTED_FILE", OVA, member.name)
            if member.size > _LARGEST:
                raise Failure(
                    "IMPORT_ERROR_GENERIC", "%s is larger than %d bytes" % (OVA, _LARGEST)
                )
            document = archive.extractfile(member).read()
            if len(document) != member.size:
                raise Failure("IMPORT_ERROR_PREMATURE_EOF")
        exported = wire.parse_value(document)
    except (tarfile.TarError, wire.Malformed, UnicodeDecodeError) as error:
        raise Failure("IMPORT_ERROR_GENERIC", error) from None
    if (
        not isinstance(exported, dict)
        or not isinstance(exported.get("objects"), list)
        or "version" not in exported
    ):
        raise Failure("IMPORT_ERROR_GENERIC", "%s has no version and objects" % OVA)
    return exported


def run(context, exported, options):
    """Import it. Answers the refs of the VMs; nothing of it stays if it fails (unless `force`).

    Raises IMPORT_INCOMPATIBLE_VERSION, IMPORT_ERROR_*, VDI_LOCATION_MISSING,
    VDI_CONTENT_ID_MISSING, VM_BAD_POWER_STATE.
    """
    version = exported["version"]
    if (int(version["xapi_major"]), int(version["xapi_minor"])) > XAPI_VERSION:
        raise Failure("IMPORT_INCOMPATIBLE_VERSION")
    importing = _Import(context, exported["objects"], options)
    with context.database.lock:
        try:
            importing.everything()
        except Exception:
            if not options.force:
                importing.undo()
            raise
    return importing.vms


class _Import:
    """`table`: exported id -> ref here, or NULL in a dry run for what would be made."""

    def __init__(self, context, objects, options):
        self.database, self.task = context.database, context.task
        self.options = options
        self.objects = {}
        for item in objects:
            self.objects.setdefault(item["class"], []).append(
                (item["id"], _typed(item["class"], item["snapshot"]))
            )
        self.table = {}
        self.made = []  # (class, ref), in the order in which they were made
        self.vms = []
        # (VM made, exported id of what it is a snapshot of, exported id of its parent)
        self.snapshot_links = []

    def everything(self):
        for class_name, handle in (
            ("host", self.host),
            ("SR", self.sr),
            ("VDI", self.vdi),
            ("VM_guest_metrics", self.metrics("VM_guest_metrics")),
            ("VM_metrics", self.metrics("VM_metrics")),
            ("VM", self.vm),
            ("network", self.network),
            ("GPU_group", self.gpu_group),
            ("VBD", self.vbd),
            ("VIF", self.vif),
            ("VGPU_type", self.vgpu_type),
            ("VGPU", self.vgpu),
            ("VTPM", self.vtpm),
        ):
            for identity, record in self.objects.get(class_name, []):
                handle(identity, record)
        for vm, snapshot_of, parent in self.snapshot_links:
            # import.ml, update_snapshot_and_parent_links: what it cannot look up stays as it is in
            # the document, and of what is no snapshot it looks up only the parent
            if self.database.get("VM", vm, "is_a_snapshot"):
                snapshot_of = self.table.get(snapshot_of, NULL)
            parent = self.table.get(parent, parent)
            self.database.set("VM", vm, snapshot_of=snapshot_of, parent=parent)
        whole = [vm for vm in self.vms if not self.database.get("VM", vm, "is_a_snapshot")]
        self.vms = whole or self.vms

    def undo(self):
        for class_name, ref in reversed(self.made):
            if class_name == "VM":
                for vtpm in self.database.get("VM", ref, "VTPMs"):
                    vtpms.remove(self.database, vtpm)
            if self.database.exists(class_name, ref):
                self.database.destroy(class_name, ref)

    def make(self, class_name, identity, fields):
        """Make an object (not in a dry run), and remember it under its exported id."""
        ref = NULL
        if not self.options.dry_run:
            ref = self.database.create(class_name, fields)
            self.made.append((class_name, ref))
        self.table[identity] = ref
        return ref

    def found(self, identity):
        """What an exported id has become. Raises IMPORT_ERROR_FAILED_TO_FIND_OBJECT [id]."""
        if identity not in self.table:
            raise Failure("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", identity)
        return self.table[identity]

    def host(self, identity, record):
        self.table[identity] = self.database.find_uuid("host", record["uuid"]) or NULL

    def sr(self, identity, record):
        sr = self.database.find_uuid("SR", record["uuid"])
        if sr:
            self.table[identity] = sr

    def metrics(self, class_name):
        def handle(identity, record):
            self.make(class_name, identity, dict(record, uuid=new_uuid()))

        return handle

    # --- disks

    def vdi(self, identity, record):
        if self._is_cd(record):
            found = self._cds_at(record["location"])
            if found:
                self.table[identity] = found[0]
            return  # else its drive will be empty
        vdi = self._mapped_vdi(record)
        if vdi:
            self.table[identity] = vdi
            if not self.options.dry_run:
                self._sync(vdi, record)
        elif self.options.dry_run and self.options.live:
            self.table[identity] = NULL  # it will be there when the move is for real
        elif not self.options.force:
            sr = self.table.get(record["SR"])
            raise (
                Failure("VDI_LOCATION_MISSING", sr, record["location"])
                if sr
                else Failure("VDI_CONTENT_ID_MISSING")
            )

    def _is_cd(self, record):
        """By the SR that it was exported from."""
        return any(
            identity == record["SR"] and sr["content_type"] == "iso"
            for identity, sr in self.objects.get("SR", [])
        )

    def _cds_at(self, location):
        srs = [
            sr
            for sr in self.database.where("SR", content_type="iso")
            if self.database.get("SR", sr, "type") != "udev"
        ]
        return [vdi for sr in srs for vdi in self.database.where("VDI", SR=sr, location=location)]

    def _mapped_vdi(self, record):
        """The VDI of this pool for an exported one: by the request's map, by its place in an SR
        that is here too, by its `maps_to`, in this order."""
        named = self.database.find_uuid("VDI", self.options.vdi_map.get(record["uuid"], ""))
        if named:
            return named
        sr = self.table.get(record["SR"])
        here = self.database.where("VDI", SR=sr, location=record["location"]) if sr else []
        return here[0] if here else record["other_config"].get(MAPPED)

    def _sync(self, vdi, record):
        other_config = self.database.get("VDI", vdi, "other_config")
        for key in _SYNCED:
            other_config.pop(key, None)
            if key in record["other_config"]:
                other_config[key] = record["other_config"][key]
        self.database.set("VDI", vdi, other_config=other_config)

    def vbd(self, identity, record):
        vm = self.found(record["VM"])
        if self.options.restore and self.database.find_uuid("VBD", record["uuid"]):
            self.table[identity] = self.database.find_uuid("VBD", record["uuid"])
            return
        there = record["VDI"] in self.table
        if record["currently_attached"] and not there and record["type"] != "CD":
            raise Failure("IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND")
        if not there and record["type"] == "Disk":
            return  # a disk cannot be empty
        if not there:
            record = dict(record, empty=True)
        vdi = self.table.get(record["VDI"], NULL)
        if vdi != NULL and not self.database.exists("VDI", vdi):
            raise Failure("HANDLE_INVALID", "VDI", vdi)
        self.make(
            "VBD",
            identity,
            dict(
                _carried("VBD", record),
                VM=vm,
                VDI=vdi,
                device=device_name(record["userdevice"]),
                currently_attached=record["currently_attached"],
                uuid=self._uuid("VBD", record),
            ),
        )

    # --- the VM

    def vm(self, identity, record):
        existing = self.database.find_uuid("VM", record["uuid"]) if self.options.restore else None
        if existing and not self._replaceable(existing, record):
            return
        if self.options.live and record["power_state"] in ("Running", "Paused"):
            # of the master: assert_can_live_import
            memory.require(
                self.database,
                self.database.get("pool", self.database.refs("pool")[0], "master"),
                record,
            )
        if self.options.dry_run:
            self.table[identity] = NULL
            return
        if existing:
            vms.remove(self.database, existing)
        fields = dict(
            _carried("VM", record),
            power_state="Halted",
            domid=-1,  # xapi_vm.ml, create
            suspend_VDI=NULL,
            appliance=NULL,
            uuid=self._uuid("VM", record),
            version=record["version"] + 1 if self.options.restore else 0,
            resident_on=self.table.get(record["resident_on"], NULL),
            affinity=self.table.get(record["affinity"], NULL),
            metrics=self.table.get(record["metrics"], NULL),
            guest_metrics=self.table.get(record["guest_metrics"], NULL),
        )
        fields["other_config"] = dict(fields["other_config"], **{TASK: self.task})
        if not self.options.restore:
            fields["other_config"]["mac_seed"] = new_uuid()
        # to the guest of a VM that arrives live its disks are as they were
        if not self.options.live and not record["is_a_template"] and record["generation_id"]:
            fields["generation_id"] = "%d:%d" % (random.getrandbits(63), random.getrandbits(63))
        for name in vms.NEVER_KEPT:
            fields.pop(name, None)
        for name in (
            "is_control_domain",
            "is_a_snapshot",
            "snapshot_info",
            "snapshot_time",
            "transportable_snapshot_id",
            "bios_strings",
        ):
            fields[name] = record[name]
        if not self.database.exists("SR", fields["suspend_SR"]):
            fields["suspend_SR"] = NULL
        if not self.database.exists("VM_metrics", fields["metrics"]):
            fields["metrics"] = self.make("VM_metrics", "metrics of %s" % identity, {})
        if record["power_state"] == "Suspended":
            # import.ml: without it, it fails, with what was made undone
            fields.update(power_state="Suspended", suspend_VDI=self.found(record["suspend_VDI"]))
        vm = self.make("VM", identity, fields)
        self.vms.append(vm)
        self.snapshot_links.append((vm, record["snapshot_of"], record["parent"]))

    def _replaceable(self, existing, record):
        """May the VM that is here already be replaced? Raises why not; False where `force` says to
        leave it out."""
        state, version = (
            self.database.get("VM", existing, "power_state"),
            self.database.get("VM", existing, "version"),
        )
        if state != "Halted":
            if self.options.force:
                return False
            raise Failure("VM_BAD_POWER_STATE", existing, "halted", state.lower())
        if version >= record["version"] and not self.options.force:
            raise Failure("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", existing, version, record["version"])
        return True

    def _uuid(self, class_name, record):
        """A restored object keeps its uuid."""
        if not self.options.restore or self.database.find_uuid(class_name, record["uuid"]):
            return new_uuid()
        return record["uuid"]

    def vtpm(self, identity, record):
        """Always made anew. In a dry run only its UUID is looked at."""
        uuid = record["vTPM'_uuid"]
        if self.options.restore and self.database.find_uuid("VTPM", uuid):
            raise Failure("IMPORT_ERROR_GENERIC", "A VTPM with UUID %s already exists" % uuid)
        if self.options.dry_run:
            self.table[identity] = NULL
            return
        vm = self.found(record["vTPM'_VM"])
        made = vtpms.make(self.database, vm, record["vTPM'_is_unique"])
        self.database.set("VTPM", made, is_protected=record["vTPM'_is_protected"])
        vtpms.put(self.database, made, record["vTPM'_content"])
        if self.options.restore:
            self.database.set("VTPM", made, uuid=uuid)

    # --- GPUs

    def gpu_group(self, identity, record):
        """The first one of the very same types of GPU. A metadata import makes none, and goes on
        without none, whatever the virtual GPUs map to."""
        types = record["GPU_types"]
        found = [
            ref
            for ref, group in self.database.records("GPU_group").items()
            if group["GPU_types"] == types
        ]
        if not found:
            text = "Unable to find GPU group with matching GPU_types = '[%s]'" % ",".join(types)
            raise Failure("INTERNAL_ERROR", 'Failure("%s")' % text)
        self.table[identity] = found[0]

    def vgpu_type(self, identity, record):
        found = self.database.where(
            "VGPU_type", identifier=record["identifier"]
        ) or self.database.where(
            "VGPU_type", vendor_name=record["vendor_name"], model_name=record["model_name"]
        )
        if found:
            self.table[identity] = found[0]
        else:
            self.make("VGPU_type", identity, _carried("VGPU_type", record))

    def vgpu(self, identity, record):
        existing = self.database.find_uuid("VGPU", record["uuid"])
        if self.options.restore and existing:
            self.table[identity] = existing
            return
        vm = self.found(record["VM"])
        other_config = dict(record["other_config"])
        group = other_config.pop(MAPPED, None) or self.found(record["GPU_group"])
        of_type = self.found(record["type"])
        if self.options.live:
            pool = self.database.refs("pool")[0]
            master = self.database.get("pool", pool, "master")
            gpus.require_capacity(self.database, master, vm, group, of_type)
        if self.options.dry_run:
            self.table[identity] = NULL
            return
        fields = {"device": record["device"], "GPU_group": group, "type": of_type}
        made = gpus.make(self.database, vm, dict(fields, other_config=other_config))
        self.made.append(("VGPU", made))
        if self.options.restore:
            self.database.set("VGPU", made, uuid=record["uuid"])
        if self.database.get("VM", vm, "power_state") != "Halted":
            self.database.set("VGPU", made, currently_attached=record["currently_attached"])
        self.table[identity] = made

    # --- networks

    def network(self, identity, record):
        found = self.database.where(
            "network", name_label=record["name_label"]
        ) or self.database.where("network", bridge=record["bridge"])
        if found:
            self.table[identity] = found[0]
        else:
            self.make(
                "network",
                identity,
                dict(_carried("network", record), bridge=next_bridge(self.database)),
            )

    def vif(self, identity, record):
        if self.options.restore and self.database.find_uuid("VIF", record["uuid"]):
            self.table[identity] = self.database.find_uuid("VIF", record["uuid"])
            return
        other_config = dict(record["other_config"])
        mapped = other_config.pop(MAPPED, None)
        network = mapped or self.found(record["network"])
        if mapped and not self.database.exists("network", mapped):
            raise Failure("HANDLE_INVALID", "network", mapped)
        record = dict(record, **({} if has_locking(self.database) else _unlocked(record)))
        self.make(
            "VIF",
            identity,
            dict(
                _carried("VIF", record),
                VM=self.found(record["VM"]),
                network=network,
                other_config=other_config,
                # xapi makes a new one of the VM's mac_seed and the device (xapi_vif_helpers.ml)
                MAC=record["MAC"] if self.options.restore else random_mac(),
                MAC_autogenerated=record["MAC_autogenerated"] if self.options.restore else True,
                currently_attached=self._stays_plugged(record),
                uuid=self._uuid("VIF", record),
            ),
        )

    def _stays_plugged(self, record):
        """Whether a device of a VM that is imported as suspended was plugged."""
        if self.options.dry_run:
            return False
        state = self.database.get("VM", self.found(record["VM"]), "power_state")
        return state != "Halted" and record["currently_attached"]


def _unlocked(interface):
    """What the importer makes of a VIF's locks where the pool's licence has none (import.ml)."""
    mode = interface["locking_mode"]
    return {
        "locking_mode": "network_default" if mode == "locked" else mode,
        "ipv4_allowed": [],
        "ipv6_allowed": [],
    }


def _typed(class_name, record):
    """An exported record with every field of ours, of its type; fields that are not ours are left
    out."""
    if class_name == "VTPM":
        return _tpm(record)
    fields = CLASSES.get(class_name, {})
    typed = {name: field.default for name, field in fields.items()}
    typed.update(
        (name, coerce(value, fields[name].type, name))
        for name, value in record.items()
        if name in fields
    )
    return typed


def _tpm(record):
    """One of a virtual TPM. Raises INTERNAL_ERROR where a field is missing or of another type
    (ppx_deriving_rpc)."""
    for name, kind in _OF_TPM.items():
        if name not in record:
            raise Failure("INTERNAL_ERROR", "Failure(\"Undefined field: Expecting '%s'\")" % name)
        if not isinstance(record[name], kind):
            raise Failure(
                "INTERNAL_ERROR",
                "Failure(\"Expected %s, got '%s'\")" % (kind.__name__, rpc_text(record[name])),
            )
    return record


def _carried(class_name, record):
    """The fields that an import takes over as they are."""
    return {
        name: record[name]
        for name, field in CLASSES[class_name].items()
        if field.access in ("RW", "ST")
    }
