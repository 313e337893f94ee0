# SPDX-License-Identifier: LGPL-2.1-only
"""A storage repository: what every driver has in common, and how a driver is found."""

import copy
import importlib.machinery
import importlib.util
import os

import XenAPI

import lab_dom0
from sm.core import util, xs_errors

MOUNT_BASE = lab_dom0.path("/run/sr-mount")
DEFAULT_TAP = "qcow2"

backends = []


def registerSR(SRClass):
    """Every driver's module calls this with its class."""
    backends.append(SRClass)


def driver(type):
    """The class that handles an SR type. Raises SRUnknownType."""
    for backend in backends:
        if backend.handles(type):
            return backend
    raise xs_errors.XenError("SRUnknownType")


def _load(path):
    """The module at a driver's path, as xapi names it: its name may have no suffix."""
    real = os.path.realpath(path)
    loader = importlib.machinery.SourceFileLoader(os.path.basename(path), real)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class SR(object):
    """One repository, as one driver call sees it. Sizes in bytes; `vdis`: uuid -> VDI."""

    @staticmethod
    def handles(type):
        """Whether this class is the driver of an SR type."""
        return False

    def __init__(self, srcmd, sr_uuid):
        self.srcmd = srcmd
        self.original_srcmd = copy.deepcopy(srcmd)
        self.dconf = srcmd.dconf
        self.cmd = srcmd.params["command"]
        self.session = None
        if "session_ref" in srcmd.params:
            self.session_ref = srcmd.params["session_ref"]
            self.session = lab_dom0.xapi_local()
            self.session._session = self.session_ref
        self.host_ref = srcmd.params.get("host_ref", "")
        self.sr_ref = srcmd.params.get("sr_ref")
        self.uuid = sr_uuid
        self.vdis = {}
        self.physical_utilisation = 0
        self.virtual_allocation = 0
        self.physical_size = 0
        self.sr_vditype = ""
        self.ops_exclusive = []
        self.driver_config = {}
        self.direct = False
        self.load(sr_uuid)

    @staticmethod
    def from_uuid(session, sr_uuid):
        """An SR, by its own driver and this host's PBD, from nothing but a session."""
        sr_ref = session.xenapi.SR.get_by_uuid(sr_uuid)
        sm_type = session.xenapi.SR.get_type(sr_ref)
        (sm_ref,) = session.xenapi.SM.get_all_records_where('field "type" = "%s"' % sm_type)
        module = _load(lab_dom0.path(session.xenapi.SM.get_driver_filename(sm_ref)))
        target = driver(sm_type)
        host_ref = util.get_localhost_ref(session)
        (pbd,) = session.xenapi.PBD.get_all_records_where(
            'field "SR" = "%s" and field "host" = "%s"' % (sr_ref, host_ref)
        ).values()
        from sm.SRCommand import SRCommand  # which imports this module

        cmd = SRCommand(module.DRIVER_INFO)
        cmd.dconf = pbd["device_config"]
        cmd.params = {
            "session_ref": session._session,
            "host_ref": host_ref,
            "device_config": cmd.dconf,
            "sr_ref": sr_ref,
            "sr_uuid": sr_uuid,
            "command": "nop",
        }
        return target(cmd, sr_uuid)

    def load(self, sr_uuid):
        """Called at the end of construction."""

    # The calls that a driver implements.

    def create(self, uuid, size):
        """Make the repository."""
        raise xs_errors.XenError("Unimplemented")

    def delete(self, uuid):
        """Remove the repository, which must be empty."""
        raise xs_errors.XenError("Unimplemented")

    def update(self, uuid):
        """Refresh xapi's record."""

    def attach(self, uuid):
        """Make the repository accessible on this host. Idempotent."""
        raise xs_errors.XenError("Unimplemented")

    def detach(self, uuid):
        """Undo attach. Idempotent."""
        raise xs_errors.XenError("Unimplemented")

    def probe(self):
        """What repositories could be made or found with this device_config."""
        raise xs_errors.XenError("Unimplemented")

    def vdi(self, uuid):
        """The VDI object of a uuid."""
        raise xs_errors.XenError("Unimplemented")

    # What is the same for all of them.

    def after_master_attach(self, uuid):
        """Once the master has attached the SR it looks over it; a failure is only told."""
        try:
            self.scan(uuid)
        except Exception as error:
            util.logException("after_master_attach")
            self.session.xenapi.message.create(
                "POST_ATTACH_SCAN_FAILED",
                "2",
                "SR",
                uuid,
                "Failed to scan SR %s after attaching, error %s" % (uuid, error),
            )

    def scan(self, uuid):
        """Bring xapi's records of the SR and its VDIs up to date with what is on disk (`vdis`)."""
        self._db_update()
        ScanRecord(self).synchronise()

    def content_type(self, uuid):
        """The type of the images."""
        return self.sr_vditype

    def forget_vdi(self, uuid):
        """Remove xapi's record of a VDI."""
        self.session.xenapi.VDI.db_forget(self.session.xenapi.VDI.get_by_uuid(uuid))

    def cleanup(self):
        """Called at the end of every command."""

    def _db_update(self):
        ref = self.session.xenapi.SR.get_by_uuid(self.uuid)
        self.session.xenapi.SR.set_virtual_allocation(ref, str(self.virtual_allocation))
        self.session.xenapi.SR.set_physical_size(ref, str(self.physical_size))
        self.session.xenapi.SR.set_physical_utilisation(ref, str(self.physical_utilisation))


class ScanRecord(object):
    """The difference between an SR's disks and xapi's records of them, by location."""

    def __init__(self, sr):
        self.sr = sr
        self._records = {
            record["location"]: record for record in util.list_VDI_records_in_sr(sr).values()
        }
        self._disks = {vdi.location: vdi for vdi in sr.vdis.values()}
        for location, vdi in self._disks.items():
            if not hasattr(vdi, "sm_config"):
                vdi.sm_config = dict(self._records.get(location, {}).get("sm_config", {}))
            vdi._override_sm_config(vdi.sm_config)
        self.new = set(self._disks) - set(self._records)
        self.gone = set(self._records) - set(self._disks)
        self.existing = [
            location
            for location in set(self._disks) & set(self._records)
            if not self._disks[location].in_sync_with_xenapi_record(self._records[location])
        ]

    def synchronise(self):
        """Make xapi's records what the disks are."""
        for location in self.new:
            self._disks[location]._db_introduce()
        for location in self.gone:
            try:
                self.sr.forget_vdi(self._records[location]["uuid"])
            except XenAPI.Failure as failure:
                if not util.isInvalidVDI(failure):
                    raise
        for location in self.existing:
            self._disks[location]._db_update()
