# SPDX-License-Identifier: LGPL-2.1-only
"""Where each disk goes: to an SR, which gets a new VDI, or into a VDI to fill; or that it stays."""

from typing import Any, Dict, List, Optional, Tuple

from storage_motion.plan import checks, room
from storage_motion.plan.inquiry import MEMORY, Attached, Inquiry
from storage_motion.plan.plan import Disk
from storage_motion.xapi.records import NULL

SR_ARGUMENT = "destination-sr-uuid"
# Where a disk goes: (the argument that says so, the SR's ref, the VDI to fill or None)
Goal = Tuple[str, str, Optional[Dict[str, Any]]]


def find_goals(inquiry: Inquiry, disks: List[Attached]) -> Dict[str, Optional[Goal]]:
    """{VDI uuid: (argument, SR ref, target VDI record or None) or None}"""
    default = None
    if inquiry.request.destination_sr:
        default = inquiry.destination.ref("SR", inquiry.request.destination_sr)
        if not default:
            inquiry.problems.add(
                SR_ARGUMENT,
                "no SR %s at the destination" % inquiry.request.destination_sr,
                "the UUID of an SR there",
            )
    goals: Dict[str, Optional[Goal]] = {}
    for _, vbd, vdi in disks:
        key, argument = vdi["uuid"], "vdi:" + vdi["uuid"]
        if key in inquiry.request.vdis:
            goals[key] = _named_goal(inquiry, argument, inquiry.request.vdis[key])
        elif default and (inquiry.cross_pool or vbd is not MEMORY):
            # within a pool an image stays, as xapi has it (xapi_vm_migrate.ml, suspends_vdis)
            goals[key] = (SR_ARGUMENT, default, None)
        else:
            goals[key] = None
            if inquiry.cross_pool and not inquiry.request.destination_sr:
                inquiry.problems.add(
                    argument,
                    "disk %s (%s) has no SR to go to" % (vbd["userdevice"], vdi["name_label"]),
                    "give vdi:%s=<SR> or destination-sr-uuid=<SR>" % key,
                )
    if (
        not inquiry.cross_pool
        and disks
        and not inquiry.request.destination_sr
        and not inquiry.request.vdis
    ):
        inquiry.problems.add(
            SR_ARGUMENT, "is missing, so no disk would move", "the UUID of an SR, or vdi:<VDI>=<SR>"
        )
    return goals


def _named_goal(inquiry: Inquiry, argument: str, uuid: str) -> Optional[Goal]:
    sr = inquiry.destination.ref("SR", uuid)
    if sr:
        return argument, sr, None
    _, target = inquiry.destination.by_uuid("VDI", uuid)
    if target:
        return argument, target["SR"], target
    inquiry.problems.add(
        argument,
        "neither an SR nor a VDI of the destination is %s" % uuid,
        "the UUID of an SR, or of a VDI to fill",
    )
    return None


def moving_disks(
    inquiry: Inquiry,
    disks: List[Attached],
    goals: Dict[str, Optional[Goal]],
    host_ref: Optional[str],
    host: Optional[Dict[str, Any]],
) -> Tuple[List[Disk], List[str]]:
    """(Disks that move, UUIDs of VDIs that stay)."""
    moving: List[Disk] = []
    staying: List[str] = []
    sizes: Dict[Tuple[str, str], List[Tuple[str, int, str]]] = {}
    chosen: Dict[str, str] = {}
    for vbd_ref, vbd, vdi in disks:
        key, size = vdi["uuid"], int(vdi["virtual_size"])
        goal, sr = goals[key], inquiry.source.of("SR", vdi["SR"])
        if not inquiry.cross_pool and (goal is None or (goal[1] == vdi["SR"] and goal[2] is None)):
            staying.append(key)
            if key in inquiry.request.formats:
                inquiry.problems.add(
                    "image-format:" + key,
                    "the disk stays where it is, as it is",
                    "give it an SR to go to, or leave it out",
                )
            if host_ref and host and not checks.plugged(inquiry.destination, sr, host_ref):
                inquiry.problems.add(
                    "vdi:" + key,
                    "stays in SR %s (%s), which host %s does not see"
                    % (sr["uuid"], sr["name_label"], host["name_label"]),
                    "give it an SR to go to",
                )
            continue
        table = checks.DISK_CHECKS
        if not inquiry.request.renew_tracking:
            table += checks.TRACKING_CHECKS
        checks.check(
            table,
            inquiry.problems,
            "vdi:" + key,
            "disk %s (%s)" % (vbd["userdevice"], vdi["name_label"]),
            vdi,
            vbd,
        )
        others = [ref for ref in vdi["VBDs"] if ref not in (NULL, vbd_ref)]
        checks.others_disk(inquiry.source, inquiry.problems, "vdi:" + key, vbd, vdi, others)
        mirrored = inquiry.live and checks.is_written(vbd)
        checks.source_sr(inquiry.problems, "vdi:" + key, sr, vdi, mirrored)
        if goal is None:
            continue
        argument, sr_ref, target = goal
        made = sizes.setdefault((argument, sr_ref), [])
        image_format = inquiry.request.formats.get(key, "")
        if target:
            _target(inquiry, argument, vdi, target, size, chosen)
            if not vbd["uuid"]:
                inquiry.problems.add(
                    argument, "would fill a disk with the image of the VM's memory", "an SR"
                )
            if image_format:
                inquiry.problems.add(
                    "image-format:" + key,
                    "is given beside a VDI to fill, which has a format",
                    "leave it out",
                )
        else:
            made.append((key, size, image_format))
        disk = as_planned(inquiry, vbd, vdi, sr, inquiry.destination.of("SR", sr_ref), target)
        moving.append(disk._replace(image_format=image_format))
    for (argument, sr_ref), wanted in sorted(sizes.items()):
        checks.destination_sr(
            inquiry.destination,
            inquiry.problems,
            argument,
            inquiry.destination.of("SR", sr_ref),
            host_ref,
            host,
            wanted,
        )
    if disks and not moving and not inquiry.problems:
        inquiry.problems.add(
            SR_ARGUMENT,
            "every disk is there already",
            "another SR, or xe vm-migrate to move the VM alone",
        )
    if moving and all(disk.unplugged for disk in moving):
        inquiry.problems.add(
            SR_ARGUMENT,
            "of the disks that would move none is plugged into the VM, which runs",
            "plug one (xe vbd-plug), or move the VM halted",
        )
    return moving, staying


def _target(
    inquiry: Inquiry,
    argument: str,
    vdi: Dict[str, Any],
    target: Dict[str, Any],
    size: int,
    chosen: Dict[str, str],
) -> None:
    checks.target_vdi(inquiry.problems, argument, target, size)
    if target["uuid"] == vdi["uuid"] or target["uuid"] in chosen:
        inquiry.problems.add(
            argument,
            "VDI %s is already %s" % (target["uuid"], chosen.get(target["uuid"], "this very disk")),
            "a VDI for each disk",
        )
    chosen[target["uuid"]] = "given for %s" % argument


def as_planned(
    inquiry: Inquiry,
    vbd: Dict[str, Any],
    vdi: Dict[str, Any],
    sr: Dict[str, Any],
    goal: Dict[str, Any],
    target: Optional[Dict[str, Any]],
) -> Disk:
    """The Disk of a VBD, its VDI and its SR (records), which goes to the SR `goal`, into the VDI
    `target` if there is one."""
    return Disk(
        key=vdi["uuid"],
        vbd=vbd["uuid"],
        device=vbd["device"] or vbd["userdevice"],
        name_label=vdi["name_label"],
        name_description=vdi["name_description"],
        size=int(vdi["virtual_size"]),
        data=room.data_of(inquiry.source, vdi),
        location=vdi["location"],
        source_sr=sr["uuid"],
        source_sr_name=sr["name_label"],
        destination_sr=goal["uuid"],
        destination_sr_name=goal["name_label"],
        target=target["uuid"] if target else "",
        type=vdi["type"],
        sharable=vdi["sharable"],
        other_config=dict(vdi["other_config"]),
        xenstore_data=dict(vdi["xenstore_data"]),
        tags=tuple(vdi["tags"]),
        allow_caching=vdi["allow_caching"],
        tracked=vdi["cbt_enabled"],
        read_only=vbd["mode"] == "RO",
        unplugged=inquiry.live and not vbd["currently_attached"],
    )
