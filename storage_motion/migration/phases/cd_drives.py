# SPDX-License-Identifier: LGPL-2.1-only
"""The CDs of a running VM: those that the destination does not see are ejected before the move, and
the one of the same name there is put in after it."""

import shlex
from typing import TYPE_CHECKING

import XenAPI

from storage_motion.errors import MotionError
from storage_motion.migration.phases import arrived_vm
from storage_motion.xapi.session import NOT_XAPI

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Cd


def eject(m: "Migration") -> None:
    """Eject the CDs that the destination cannot see."""
    for cd in m.plan.cds:
        vbd = m.source.xenapi.VBD.get_by_uuid(cd.vbd)
        if cd.eject and not m.source.xenapi.VBD.get_empty(vbd):
            m.source.xenapi.VBD.eject(vbd)


def insert(m: "Migration") -> None:
    """Put the CDs back that were ejected."""
    for cd in m.plan.cds:
        vbd = m.source.xenapi.VBD.get_by_uuid(cd.vbd)
        if cd.eject and m.source.xenapi.VBD.get_empty(vbd):
            m.source.xenapi.VBD.insert(vbd, m.source.xenapi.VDI.get_by_uuid(cd.vdi))


def insert_namesakes(m: "Migration") -> None:
    """Put the CDs of the destination into the drives of the VM that has arrived, where they are
    still empty. One that cannot be put in is warned of: nothing else depends on it."""
    if m.plan.suspended:
        return  # xapi opens none of its drives (xapi_vbd.ml, assert_not_suspended)
    for cd in m.plan.cds:
        if cd.eject and cd.insert:
            try:
                _insert(m, cd)
            except (XenAPI.Failure, MotionError, OSError) + NOT_XAPI as failure:
                m.warn(
                    "CD %s (%s) could not be put into drive %s: %s; put it in by hand: "
                    "xe vm-cd-insert uuid=%s cd-name=%s"
                    % (cd.name, cd.insert, cd.device, failure, m.plan.vm, shlex.quote(cd.name))
                )


def _insert(m: "Migration", cd: "Cd") -> None:
    api = m.destination.xenapi.VBD
    vm = arrived_vm.find(m)
    for ref in m.destination.xenapi.VM.get_VBDs(vm) if vm else ():
        vbd = api.get_record(ref)
        # it has another UUID in another pool
        if vbd["type"] == "CD" and vbd["userdevice"] == cd.userdevice and vbd["empty"]:
            api.insert(ref, m.destination.xenapi.VDI.get_by_uuid(cd.insert))
