# SPDX-License-Identifier: LGPL-2.1-only
"""What SM's activation of a disk has left behind that nobody is at any more.

SM notes `activating` in a VDI's sm_config while it activates it, and takes it away itself; nothing
else does, not even the reset at the plug of an SR (docs/facts/tapdisk-and-sm.md, 8,
blktap2.VDI._add_tag, resetvdis). When the host loses its power in between, the key stays: SM then
activates the VDI nowhere, and nobody can know that it is not active.

Its key for the host that has the VDI, `host_<ref>`, SM takes away at the deactivation. What a VM
had attached when it went away without that is a datapath of xapi's storage layer, and goes by that
(xapi/datapaths.py). When xapi dies in the middle of an activation, SM's command cannot write to it
any more, and the xapi that comes next knows of nothing to deactivate: the key may stay, and the
tapdisk.
"""

import logging
from typing import TYPE_CHECKING, Any, Dict, Optional

from storage_motion.dom0 import inventory, launch
from storage_motion.sm import marks, smapi
from storage_motion.xapi import datapaths, xenops
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

SM_TIMEOUT = 120.0

log = logging.getLogger("sxm")


def end_dead(session: "XenAPI.Session", uuid: Optional[str]) -> bool:
    """Take `activating` off a VDI (a UUID; None: there is none) of an SR that only this host has,
    if no process of this host is at it: a command of SM has the VDI's UUID in its argument. Whether
    it was taken off."""
    view = Records(session)
    vdi: Any
    ref, vdi = view.by_uuid("VDI", uuid) if uuid else (None, None)
    if not ref or marks.ACTIVATING not in vdi["sm_config"] or not _only_here(view, vdi["SR"]):
        return False
    assert uuid is not None
    # The key was there before the processes are looked for: whoever starts now did not write it.
    if launch.running(mentioning=[uuid]):
        return False
    log.warning("VDI %s: the activation that was under way when this host died is ended", uuid)
    session.xenapi.VDI.remove_from_sm_config(ref, marks.ACTIVATING)
    return True


def let_go_dead(session: "XenAPI.Session", uuid: Optional[str], vm: str) -> bool:
    """Have xapi let go of a VDI (a UUID) that is active, or attached, on this host for the VM (a
    UUID), if that is not on this host any more, nor on its way here, no other VM has the VDI, and
    no command of SM is at it. Whether it did. Raises SmFault, XenopsError or Unreachable.

    Only while the VM's operations are blocked: nobody starts it in between, then."""
    view = Records(session)
    vdi: Any
    ref, vdi = view.by_uuid("VDI", uuid) if uuid else (None, None)
    if not ref or _others_have(view, vdi, vm):
        return False
    host = session.xenapi.host.get_by_uuid(inventory.host_uuid())
    held = datapaths.of_vm_disks(session, host, view.of("SR", vdi["SR"])["uuid"], vdi["location"])
    if not held and marks.HOST + host not in vdi["sm_config"]:
        return False
    here = xenops.Xenops.local(session, "sxm")
    if any(
        here.power_state(one) not in xenops.GONE
        for one in (vm, xenops.incoming(vm), xenops.leaving(vm))
    ):
        return False
    assert uuid is not None
    # Looked for last: who is not known to xenopsd any more has nothing begun after that.
    if launch.running(mentioning=[uuid]):
        return False
    log.warning(
        "VDI %s: VM %s has left it behind on this host (%s); it is let go of",
        uuid,
        vm,
        ", ".join(held) or "no datapath",
    )
    for datapath in held:
        datapaths.destroy(session, host, datapath)
    if marks.HOST + host in session.xenapi.VDI.get_sm_config(ref):
        # xapi believes that it is not active, so this is not behind its back: SM was killed in it,
        # and has left its mark.
        smapi.call(session, vdi["SR"], "vdi_let_go", vdi_ref=ref, timeout=SM_TIMEOUT)
    return True


def _others_have(view: Records, vdi: Dict[str, Any], vm: str) -> bool:
    """Whether a VM but `vm` (a UUID) has the VDI plugged."""
    vbds = [view.of("VBD", vbd) for vbd in vdi["VBDs"]]
    holders = [view.of("VM", vbd["VM"]) for vbd in vbds if vbd and vbd["currently_attached"]]
    return any(holder and holder["uuid"] != vm for holder in holders)


def _only_here(view: Records, sr: str) -> bool:
    hosts = [view.of("host", view.of("PBD", pbd)["host"]) for pbd in view.of("SR", sr)["PBDs"]]
    return [host and host["uuid"] for host in hosts] == [inventory.host_uuid()]
