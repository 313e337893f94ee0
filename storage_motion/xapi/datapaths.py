# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi's storage layer on one host believes of a VDI: its datapaths, and how to remove one.

xapi asks SM to activate a VDI for the first datapath and to deactivate it after the last one.
Whoever has SM deactivate it otherwise leaves xapi believing that it is active, and the next VM
gets no tapdisk (docs/facts/xapi.md, the whole stack, 3).
"""

import re
from typing import Dict, List, Tuple

import XenAPI

from storage_motion.errors import SmFault

DESTROY = "sm_dp_destroy"
_LINE = re.compile(r"^(SR|VDI|DP:) (.*)$")
# "vbd/3/xvda: activated RW  ** LEAKED": of a VM's disk, by domain (0 is dom0) and device
# (xenopsd's storage.ml, id_of).
_DATAPATH = re.compile(r"^(vbd/[1-9]\d*/[^:]+): (.*)$")
_WRITABLE, _READABLE = "activated RW", "activated RO"


def of_vm_disks(session: "XenAPI.Session", host: str, sr: str, location: str) -> List[str]:
    """The datapaths of VMs that hold a VDI (the UUID of its SR, its location) on `host` (a ref),
    leaked ones as well."""
    return [datapath for datapath, _ in _of_vm_disks(session, host, sr, location)]


def is_active(session: "XenAPI.Session", host: str, sr: str, location: str, writable: bool) -> bool:
    """Whether the storage layer of `host` has the VDI active for a VM, and so: `writable`, or
    read-only."""
    wanted = _WRITABLE if writable else _READABLE
    return any(state == wanted for _, state in _of_vm_disks(session, host, sr, location))


def _of_vm_disks(
    session: "XenAPI.Session", host: str, sr: str, location: str
) -> List[Tuple[str, str]]:
    found: List[Tuple[str, str]] = []
    place: Dict[str, str] = {}
    for line in session.xenapi.host.get_sm_diagnostics(host).splitlines():
        match = _LINE.match(line.strip())
        if not match:
            continue
        kind, text = match.groups()
        if kind == "DP:":
            datapath = _DATAPATH.match(text)
            if datapath and (place.get("SR"), place.get("VDI")) == (sr, location):
                found.append((datapath.group(1), datapath.group(2)))
        else:
            place[kind] = text
    return found


def destroy(session: "XenAPI.Session", host: str, datapath: str) -> None:
    """Have xapi remove a datapath, with SM's deactivation and detach if it is the last one.

    Raises SmFault: xapi keeps it, then, and tries again at the next use of the VDI."""
    try:
        session.xenapi.host.sm_dp_destroy(host, datapath, False)
    except XenAPI.Failure as failure:
        raise SmFault(DESTROY, None, " ".join(str(detail) for detail in failure.details))
