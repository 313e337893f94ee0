# SPDX-License-Identifier: LGPL-2.1-only
"""What a VM loses when it changes its pool: what xapi's importer leaves out (import.ml; xapi_vm.ml,
create) and nobody else brings, or what comes along and means something else there.

It is named before the move, with what to do afterwards. Not named are operations that somebody has
blocked, which the migration itself blocks again (migration/phases/claim.py, hand_on), and what it
brings at its end (phases/messages.py, statistics.py, blobs.py)."""

import logging
from typing import Any, Callable, Dict, Iterator, List, Tuple

import XenAPI

from storage_motion.plan.inquiry import Inquiry
from storage_motion.xapi import blobs
from storage_motion.xapi.records import NULL

log = logging.getLogger("sxm")

# of the pool's restrictions: without that feature the importer takes the locks off VIFs
VIF_LOCKING = "restrict_vif_locking"
CUSTOM_FIELDS = "XenCenter.CustomFields"  # in the pool's gui_config: which fields there are
# How a VIF is configured in the guest, by xapi through xenstore: not among what VIF.create takes.
GUEST_ADDRESSES = ("ipv4_configuration_mode", "ipv6_configuration_mode")
# Keys of other_config that name a device by its address on a host of today.
DEVICES = ("pci", "vgpu_pci")


def cautions(inquiry: Inquiry) -> List[str]:
    """What stays behind of the VM of an inquiry: a list of sentences; nothing within a pool. Of a
    copy only what it brings and should not, or lacks and should have: the VM keeps all else."""
    if not inquiry.cross_pool:
        return []
    found: List[str] = []
    for named in _OF_COPIES if inquiry.request.copy else _OF_COPIES + _OF_MOVES:
        try:
            found += list(named(inquiry))
        except XenAPI.Failure as failure:  # a xapi that has not all of it; no plan fails by that
            log.warning("what stays behind: %s: %s", named.__name__, failure)
    return found


def _affinity(inquiry: Inquiry) -> Iterator[str]:
    # It is kept where the importing pool has a host of that UUID: one that has changed its pool.
    host = inquiry.source.of("host", inquiry.vm.get("affinity"))
    if host and not inquiry.destination.ref("host", host["uuid"]):
        yield (
            "the VM's home server, host %s (%s), is not in the destination pool: the VM has none "
            "there; xe vm-param-set affinity=<host> there" % (host["name_label"], host["uuid"])
        )


def _references(inquiry: Inquiry) -> Iterator[str]:
    """Fields of the VM that name an object of the pool."""
    for field, class_name, sentence in _REFERENCES:
        value = inquiry.vm.get(field) or NULL
        for ref in value if isinstance(value, list) else [value]:
            record = inquiry.source.of(class_name, ref)
            if record:
                yield sentence % (record["name_label"], record["uuid"])


_REFERENCES: Tuple[Tuple[str, str, str], ...] = (
    (
        "appliance",
        "VM_appliance",
        "the VM leaves vApp %s (%s); xe vm-param-set appliance=<vApp> in the destination pool",
    ),
    (
        "groups",
        "VM_group",
        "the VM leaves VM group %s (%s); xe vm-param-set groups=<group> in the destination pool",
    ),
    (
        "snapshot_schedule",
        "VMSS",
        "snapshot schedule %s (%s) no longer has the VM; xe vm-param-set snapshot-schedule="
        "<schedule> in the destination pool, or see to its snapshots otherwise",
    ),
    (
        "protection_policy",
        "VMPP",
        "protection policy %s (%s) no longer has the VM; see to its backups otherwise",
    ),
    (
        "suspend_SR",
        "SR",
        "the VM's SR for suspend images, %s (%s), is forgotten; xe vm-param-set suspend-SR-uuid="
        "<SR> in the destination pool",
    ),
)


def _blobs(inquiry: Inquiry) -> Iterator[str]:
    """Those that are not moved, and those for which there would be no room if they could not be."""
    records = [
        (name, inquiry.source.of("blob", ref))
        for name, ref in (inquiry.vm.get("blobs") or {}).items()
    ]
    sizes = sorted((int(blob["size"]), name) for name, blob in records if blob)
    left = inquiry.room_to_keep
    for size, name in sizes:
        left -= size
        if size > blobs.LARGEST:
            yield (
                "blob %s of the VM has more than %d MiB, and is deleted with it at the source; xe "
                "blob-get it before the move, and xe blob-create and blob-put it afterwards"
                % (name, blobs.LARGEST >> 20)
            )
        elif left < 0:
            yield (
                "blob %s of the VM is lost if it cannot be moved, as there is no room to keep it; "
                "xe blob-get it before the move, or take away /var/lib/sxm/kept-* of the VM's host"
                % name
            )


def _crash_dumps(inquiry: Inquiry) -> Iterator[str]:
    if inquiry.vm.get("crash_dumps"):
        yield (
            "%d crash dumps of the VM stay behind; fetch what you need of them before the move"
            % len(inquiry.vm["crash_dumps"])
        )


def _devices(inquiry: Inquiry) -> Iterator[str]:
    for key in DEVICES:
        if inquiry.vm["other_config"].get(key):
            yield (
                "other_config:%s=%s of the VM comes along and names a device of a host of the pool "
                "that it leaves; give it one of the destination's, or take the key away, before "
                "the VM is started there" % (key, inquiry.vm["other_config"][key])
            )


def _start_with_host(inquiry: Inquiry) -> Iterator[str]:
    key = "auto_poweron"

    def is_on(record: Dict[str, Any]) -> bool:
        return bool(record.get("other_config", {}).get(key) == "true")

    pools = inquiry.source.pool(), inquiry.destination.pool()
    if is_on(inquiry.vm) and is_on(pools[0]) and not is_on(pools[1]):
        yield (
            "the VM is started with its host (other_config:%s), and the destination pool does not "
            "do that; xe pool-param-set other-config:%s=true there" % (key, key)
        )


def _custom_fields(inquiry: Inquiry) -> Iterator[str]:
    known = inquiry.destination.pool().get("gui_config", {}).get(CUSTOM_FIELDS, "")
    for key in sorted(inquiry.vm["other_config"]):
        name = key[len(CUSTOM_FIELDS) + 1 :]
        if key.startswith(CUSTOM_FIELDS + ".") and name not in known:
            yield (
                "XenCenter's custom field %s comes along, and the destination pool has no such "
                "field; define it there to have it shown" % name
            )


def _interfaces(inquiry: Inquiry) -> Iterator[str]:
    restrictions = inquiry.destination.pool().get("restrictions", {})
    locking = restrictions.get(VIF_LOCKING) == "false"
    for ref in inquiry.vm["VIFs"]:
        vif = inquiry.source.of("VIF", ref)
        if not vif:
            continue
        named = "interface %s (%s)" % (vif["device"], vif["MAC"])
        locked = vif.get("locking_mode") == "locked"
        if (locked or vif.get("ipv4_allowed") or vif.get("ipv6_allowed")) and not locking:
            yield (
                "%s loses its locking mode and the addresses that it may have, as the destination "
                "pool has no VIF locking (%s)" % (named, VIF_LOCKING)
            )
        if any((vif.get(field) or "None") != "None" for field in GUEST_ADDRESSES):
            yield (
                "%s loses the addresses that it gives its guest; xe vif-configure-ipv4 or "
                "vif-configure-ipv6 in the destination pool" % named
            )


def _pvs(inquiry: Inquiry) -> Iterator[str]:
    # An importer finds the site by the UUID that the PVS server has given it, and else drops it.
    for proxy in inquiry.source.all("PVS_proxy").values():
        site = inquiry.source.of("PVS_site", proxy["site"])
        if proxy["VIF"] not in inquiry.vm["VIFs"] or not site:
            continue
        sites = inquiry.destination.all("PVS_site").values()
        if site["PVS_uuid"] not in [there["PVS_uuid"] for there in sites]:
            yield (
                "the VM has PVS proxy %s, and the destination pool has no PVS site %s (%s); xe "
                "pvs-site-introduce and pvs-proxy-create there"
                % (proxy["uuid"], site["name_label"], site["PVS_uuid"])
            )


_OF_COPIES: Tuple[Callable[[Inquiry], Iterator[str]], ...] = (
    _affinity,
    _devices,
    _start_with_host,
    _custom_fields,
    _interfaces,
    _pvs,
)
_OF_MOVES: Tuple[Callable[[Inquiry], Iterator[str]], ...] = (_references, _blobs, _crash_dumps)
