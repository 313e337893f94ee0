# SPDX-License-Identifier: LGPL-2.1-only
"""A VDI: what every driver's disks have in common."""

import xmlrpc.client

from sm import SR, tracking
from sm.core import util, xs_errors

SNAPSHOT_SINGLE = 1  # one leaf on a read-only parent
SNAPSHOT_DOUBLE = 2  # the usual one: two leaves on a hidden parent
SNAPSHOT_INTERNAL = 3  # as single, and the SR's virtual allocation stays as it is

SM_CONFIG_PASS_THROUGH_FIELDS = ["base_mirror", "key_hash"]
# Keys of sm_config that belong to activation and the garbage collector: a scan leaves them alone.
_SM_CONFIG_PROTECTED = ("paused", "vhd-blocks", "relinking", "activating")


def _protected(key):
    return key.startswith("host_") or key in _SM_CONFIG_PROTECTED


class VDI(tracking.Tracked):
    """One disk of an SR. Sizes in bytes; `sm_config` exists only once something set it."""

    def __init__(self, sr, uuid):
        self.sr = sr
        self.session = sr.session
        self.uuid = uuid
        self.location = uuid
        self.path = None
        self.label = ""
        self.description = ""
        self.size = 0
        self.utilisation = 0
        self.vdi_type = ""
        self.parent = None
        self.shareable = False
        self.attached = False
        self.read_only = False
        self.hidden = False
        self.xenstore_data = {}
        self.deleted = False
        self.managed = True
        self.sm_config_override = {}
        self.ty = "user"
        self.cbt_enabled = False
        self.load(uuid)

    @staticmethod
    def from_uuid(session, vdi_uuid):
        """A VDI, by its own driver, from nothing but a session."""
        vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
        sr_uuid = session.xenapi.SR.get_uuid(session.xenapi.VDI.get_SR(vdi_ref))
        sr = SR.SR.from_uuid(session, sr_uuid)
        sr.srcmd.params["vdi_ref"] = vdi_ref
        return sr.vdi(vdi_uuid)

    def load(self, vdi_uuid):
        """Called at the end of construction: find the disk."""

    # The calls that a driver implements.

    def create(self, sr_uuid, vdi_uuid, size):
        """Make the disk, of at least `size` bytes, and introduce it to xapi."""
        raise xs_errors.XenError("Unimplemented")

    def update(self, sr_uuid, vdi_uuid):
        """xapi's record changed (its name, say)."""

    def introduce(self, sr_uuid, vdi_uuid):
        """Introduce a disk that is there to xapi."""
        raise xs_errors.XenError("Unimplemented")

    def delete(self, sr_uuid, vdi_uuid, data_only=False):
        """Remove the disk and xapi's record of it. Idempotent."""
        raise xs_errors.XenError("Unimplemented")

    def attach(self, sr_uuid, vdi_uuid):
        """Make the image accessible here. Returns an XML-RPC struct of `params` (its path) and
        xenstore data."""
        struct = {"params": self.path, "xenstore_data": self.xenstore_data or {}}
        return xmlrpc.client.dumps((struct,), "", True)

    def detach(self, sr_uuid, vdi_uuid):
        """Undo attach. Idempotent."""
        raise xs_errors.XenError("Unimplemented")

    def clone(self, sr_uuid, vdi_uuid):
        """Make a writable copy-on-write copy."""
        raise xs_errors.XenError("Unimplemented")

    def resize(self, sr_uuid, vdi_uuid, size):
        """Make the disk larger, to at least `size` bytes."""
        raise xs_errors.XenError("Unimplemented")

    def resize_online(self, sr_uuid, vdi_uuid, size):
        """The same while it is active."""
        raise xs_errors.XenError("Unimplemented")

    def compose(self, sr_uuid, vdi1, vdi2):
        """Put `vdi2` (this VDI) on top of `vdi1`, which gets hidden."""
        raise xs_errors.XenError("Unimplemented")

    def generate_config(self, sr_uuid, vdi_uuid):
        """What is needed to attach the disk while xapi does not run."""
        raise xs_errors.XenError("Unimplemented")

    def _do_snapshot(self, sr_uuid, vdi_uuid, snapType, cloneOp=False, secondary=None, cbtlog=None):
        raise xs_errors.XenError("Unimplemented")

    def snapshot(self, sr_uuid, vdi_uuid):
        """Take a snapshot. driver_params: `type` single or internal, `mirror` a secondary for the
        tapdisk."""
        driver_params = self.sr.srcmd.params.get("driver_params") or {}
        kind = {"single": SNAPSHOT_SINGLE, "internal": SNAPSHOT_INTERNAL}.get(
            driver_params.get("type"), SNAPSHOT_DOUBLE
        )
        tracked = self._get_blocktracking_status()
        return self._do_snapshot(
            sr_uuid,
            vdi_uuid,
            kind,
            secondary=driver_params.get("mirror"),
            cbtlog=self._get_cbt_logpath(self.uuid) if tracked else None,
        )

    def get_params(self):
        """The answer of the calls that make a VDI: its location and uuid."""
        return xmlrpc.client.dumps(({"location": self.location, "uuid": self.uuid},), "", True)

    # xapi's record of it.

    def _db_introduce(self):
        """Make xapi's record. Returns its ref."""
        sm_config = dict(util.default(self, "sm_config", dict))
        for key in SM_CONFIG_PASS_THROUGH_FIELDS:
            value = self.sr.srcmd.params.get("vdi_sm_config", {}).get(key)
            if value:
                sm_config[key] = value
        snapshot_time = util.default(self, "snapshot_time", lambda: "19700101T00:00:00Z")
        return self.session.xenapi.VDI.db_introduce(
            self.uuid,
            self.label,
            self.description,
            self.sr.sr_ref,
            self.ty,
            self.shareable,
            self.read_only,
            {},
            self.location,
            {},
            sm_config,
            self.managed,
            str(self.size),
            str(self.utilisation),
            util.default(self, "metadata_of_pool", lambda: "OpaqueRef:NULL"),
            util.default(self, "is_a_snapshot", lambda: False),
            xmlrpc.client.DateTime(snapshot_time),
            util.default(self, "snapshot_of", lambda: "OpaqueRef:NULL"),
            self.cbt_enabled,
        )

    def _db_forget(self):
        self.sr.forget_vdi(self.uuid)

    def _override_sm_config(self, sm_config):
        """Put what the disk itself says (its parent) into an sm_config; a value of None takes a key
        out."""
        for key, value in self.sm_config_override.items():
            if value:
                sm_config[key] = value
            else:
                sm_config.pop(key, None)

    def _db_update_sm_config(self, ref, sm_config):
        current = self.session.xenapi.VDI.get_sm_config(ref)
        for key, value in sm_config.items():
            if not _protected(key) and current.get(key) != value:
                self.session.xenapi.VDI.remove_from_sm_config(ref, key)
                self.session.xenapi.VDI.add_to_sm_config(ref, key, value)
        for key in current:
            if not _protected(key) and not sm_config.get(key):
                self.session.xenapi.VDI.remove_from_sm_config(ref, key)

    def _db_update(self):
        """Bring xapi's record up to date with the disk."""
        ref = self.session.xenapi.VDI.get_by_uuid(self.uuid)
        self.session.xenapi.VDI.set_virtual_size(ref, str(self.size))
        self.session.xenapi.VDI.set_physical_utilisation(ref, str(self.utilisation))
        self.session.xenapi.VDI.set_read_only(ref, self.read_only)
        sm_config = util.default(self, "sm_config", dict)
        self._override_sm_config(sm_config)
        self._db_update_sm_config(ref, sm_config)
        self.session.xenapi.VDI.set_cbt_enabled(ref, self._get_blocktracking_status())

    def in_sync_with_xenapi_record(self, record):
        """Whether xapi's record agrees with the disk."""
        return (
            self.location == record["location"]
            and self.read_only == record["read_only"]
            and str(self.size) == str(record["virtual_size"])
            and str(self.utilisation) == str(record["physical_utilisation"])
            and util.default(self, "sm_config", dict) == record["sm_config"]
            and self.cbt_enabled == record["cbt_enabled"]
        )

    def disable_leaf_on_secondary(self, vdi_uuid, secondary=None):
        """While a mirror is attached the garbage collector must not coalesce this leaf."""
        vdi_ref = self.session.xenapi.VDI.get_by_uuid(vdi_uuid)
        self.session.xenapi.VDI.remove_from_other_config(vdi_ref, "leaf-coalesce")
        if secondary is not None:
            self.session.xenapi.VDI.add_to_other_config(vdi_ref, "leaf-coalesce", "false")
