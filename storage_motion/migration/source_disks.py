# SPDX-License-Identifier: LGPL-2.1-only
"""What the VM that moves has: whoever receives it takes none of that away.

Within a pool the disks that are read and those that are made are in one database, and xapi destroys
a disk that is not plugged whoever has it (xapi_vdi.ml, destroy). So each VDI that is about to be
taken away is looked at twice more: whether the source has named it as the VM's before anything was
made, and whether xapi has it as the VM's now.
"""

from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Set

from storage_motion.errors import DiskOfVm
from storage_motion.journal.journal import Journal
from storage_motion.migration import wanted_disks
from storage_motion.xapi.records import CLAIM, NULL, Records

if TYPE_CHECKING:
    import XenAPI

ARGUMENT = "sources"  # of our plugin, and a field of the receiving journal: UUIDs of VDIs


def given_by(given: Dict[str, str]) -> List[str]:
    """Those that the source names. Raises BadArguments."""
    return wanted_disks.uuids(given.get(ARGUMENT, "[]"), ARGUMENT)


def named(entry: Journal) -> Set[str]:
    """The UUIDs of the VDIs that a receiving journal has as the source's: those that were named,
    and the keys of the disks that are received."""
    return set(entry.entry.get(ARGUMENT, ())) | set(entry.entry["disks"])


def require_none(session: "XenAPI.Session", entry: Journal, uuids: Iterable[str]) -> None:
    """Raises DiskOfVm if one of these VDIs, which were made for this migration by all that is
    known, is the VM's: the source's, or what the VM has within its pool. `uuids`: of VDIs that may
    be gone."""
    view = Records(session)
    vms = _within(view, entry)
    sources = named(entry)
    for uuid in uuids:
        if uuid in sources:
            raise DiskOfVm(uuid, "the source of migration %s" % entry.entry["migration"])
        ref, vdi = view.by_uuid("VDI", uuid)
        vbds = [view.of("VBD", vbd) for vbd in vdi["VBDs"] if vbd != NULL] if vdi else []
        having = [vbd["VM"] for vbd in vbds if vbd]
        having += [vm for vm, record in vms.items() if ref and record["suspend_VDI"] == ref]
        for vm in having:
            if vm in vms:
                raise DiskOfVm(uuid, "VM %s, which has it" % vms[vm]["uuid"])


def _within(view: Records, entry: Journal) -> Dict[str, Dict[str, Any]]:
    """{ref: record} of the VM and its snapshots, if they are in this pool, from which they move. A
    VM that was brought here from another pool has no mark."""
    ref, vm = view.by_uuid("VM", entry.entry.get("vm", ""))
    if ref is None or vm["other_config"].get(CLAIM) != entry.entry["migration"]:
        return {}
    known = {one: view.of("VM", one) for one in [ref] + vm["snapshots"]}
    return {one: record for one, record in known.items() if record}
