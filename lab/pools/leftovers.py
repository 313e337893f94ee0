# SPDX-License-Identifier: LGPL-2.1-only
"""What a migration left behind: everything on the lab's hosts and in its databases that nothing
there needs.

The measure is not a snapshot taken before, but need: a VDI is needed by a VBD, an image by a VDI or
an image above it, a tapdisk by a running VM's disk, and so on. `at_rest` finds all that stands
without one; it holds whenever no operation is under way. `of_vm` finds what is still there of a VM
that has moved away.
"""

import collections
import json
import os
import re
import subprocess

from lab.blktap import nbd_server
from lab.dom0 import systemd
from lab.pools import vms, volumes
from lab.pools.daemons import environment, of_root
from lab.xapi import rrdd

QEMU_IMG = 30.0
STANDING = {"run/sxm/disks"}
"""A directory that the product makes once, as its package could: only what is in it counts."""
HIDDEN = ".hidden"
"""What the lab's SM puts behind the name of an image that is no VDI any more, for a marker beside
it."""
NOTED = "sxm_related"
"""The key of a VDI's other_config that stays: where it came from (storage_motion/plan/bases.py)."""
DAEMONS = ("lab.xapi", "lab.xenopsd")

Footprint = collections.namedtuple("Footprint", "vm objects locations")
"""What a VM consists of: its uuid; {class: uuids}; its disks' locations {SR uuid: image names}."""


def footprint(pool, vm):
    """The Footprint of the VM (a ref) in this pool, to be asked for after a move."""
    xapi = pool.xapi
    record = xapi.VM.get_record(vm)
    vdis, locations = [], collections.defaultdict(list)
    for vbd in record["VBDs"]:
        vdi = xapi.VBD.get_VDI(vbd)
        if vdi != "OpaqueRef:NULL":
            vdis.append(xapi.VDI.get_uuid(vdi))
            locations[xapi.SR.get_uuid(xapi.VDI.get_SR(vdi))].append(xapi.VDI.get_location(vdi))
    return Footprint(
        record["uuid"],
        {
            "VM": [record["uuid"]]
            + [xapi.VM.get_uuid(snapshot) for snapshot in record["snapshots"]],
            "VDI": vdis,
            "VBD": [xapi.VBD.get_uuid(vbd) for vbd in record["VBDs"]],
            "VIF": [xapi.VIF.get_uuid(vif) for vif in record["VIFs"]],
        },
        dict(locations),
    )


def of_vm(pool, was, moved_within=False):
    """Sentences about what is still in this pool of a VM that moved away (`moved_within`: only its
    disks did)."""
    left = []
    for kind, uuids in was.objects.items():
        if moved_within and kind != "VDI":
            continue
        present = {record["uuid"] for record in getattr(pool.xapi, kind).get_all_records().values()}
        left += [
            "%s %s of the VM is still in pool %s" % (kind, uuid, pool.name)
            for uuid in uuids
            if uuid in present
        ]
    for host in pool.hosts:
        for repository, locations in was.locations.items():
            images = _images(host, repository) + sorted(volumes.of(repository))
            left += [
                "image %s of the VM is still on %s" % (image, host.name)
                for image in images
                if any(location in image for location in locations)
            ]
        if not moved_within and host.domain(was.vm):
            left.append("%s still has a domain of the VM" % host.name)
    return left


def at_rest(lab):
    """Sentences about everything in the lab that stands without need."""
    return of_pools(lab.pools)


def of_pools(pools):
    """The same of these pools alone."""
    left = []
    for pool in pools:
        view = _View(pool)
        left += ["pool %s: %s" % (pool.name, text) for check in _IN_A_POOL for text in check(view)]
        for host in pool.hosts:
            left += [
                "host %s: %s" % (host.name, text)
                for check in _ON_A_HOST
                for text in check(view, host)
            ]
    return left


class _View:
    """A pool's database, read once."""

    def __init__(self, pool):
        self.pool = pool
        self.classes = {
            name: getattr(pool.xapi, name).get_all_records()
            for name in ("VM", "VDI", "VBD", "VIF", "SR", "PBD", "task", "host")
        }
        self.vms = {
            ref: record
            for ref, record in self.classes["VM"].items()
            if not record["is_control_domain"]
        }

    def running_on(self, host):
        """The VMs that run on this host (lab's)."""
        ref = next(
            ref for ref, record in self.classes["host"].items() if record["uuid"] == host.uuid
        )
        return {
            vm: record
            for vm, record in self.vms.items()
            if record["resident_on"] == ref and record["power_state"] == "Running"
        }

    def disks_on(self, host):
        """(SR uuid, VDI uuid) of each disk that is attached to a VM that runs on this host."""
        found = set()
        for vbd in self.classes["VBD"].values():
            if vbd["VM"] in self.running_on(host) and vbd["currently_attached"]:
                vdi = self.classes["VDI"][vbd["VDI"]]
                found.add((self.classes["SR"][vdi["SR"]]["uuid"], vdi["uuid"]))
        return found


def _unneeded_objects(view):
    used = {vbd["VDI"] for vbd in view.classes["VBD"].values()}
    used |= {vm["suspend_VDI"] for vm in view.vms.values() if vm["power_state"] == "Suspended"}
    for ref, vdi in view.classes["VDI"].items():
        is_cd = view.classes["SR"][vdi["SR"]]["content_type"] == "iso"
        if vdi["managed"] and ref not in used and not is_cd:
            yield "VDI %s (%s%s) belongs to no VM" % (
                vdi["uuid"],
                vdi["name_label"],
                ", a snapshot" if vdi["is_a_snapshot"] else "",
            )
    for kind in ("VBD", "VIF"):
        for record in view.classes[kind].values():
            if record["VM"] not in view.classes["VM"]:
                yield "%s %s belongs to no VM" % (kind, record["uuid"])
    for vbd in view.classes["VBD"].values():
        if not vbd["empty"] and vbd["VDI"] not in view.classes["VDI"]:
            yield "VBD %s has no VDI" % vbd["uuid"]


def _marks_on_vdis(view):
    attached = {vbd["VDI"] for vbd in view.classes["VBD"].values() if vbd["currently_attached"]}
    for ref, vdi in view.classes["VDI"].items():
        for key in vdi["sm_config"]:
            if (
                key in ("paused", "activating", "relinking")
                or key.startswith("host_")
                and ref not in attached
            ):
                yield "VDI %s has %s in its sm_config" % (vdi["uuid"], key)
        for key in vdi["other_config"]:
            if key.startswith("sxm") and key != NOTED or key == "maps_to":
                yield "VDI %s has %s in its other_config" % (vdi["uuid"], key)


def _unmanaged_disks(view):
    """One that xapi does not manage and that no VM has is an image without need, unless another one
    is based on it."""
    for vbd in view.classes["VBD"].values():
        vdi = view.classes["VDI"].get(vbd["VDI"])
        if vdi and not vdi["managed"]:
            yield "VDI %s, which a VM has, is not managed" % vdi["uuid"]


def _marks_on_vms(view):
    for vm in view.vms.values():
        blocked = [key for key, text in vm["blocked_operations"].items() if text != vms.BY_ITS_USER]
        for key in blocked + list(vm["current_operations"].values()):
            yield "VM %s is blocked for or busy with %s" % (vm["uuid"], key)
        for key in vm["other_config"]:
            if key.startswith("sxm"):
                yield "VM %s has %s in its other_config" % (vm["uuid"], key)
    for task in view.classes["task"].values():
        if task["status"] == "pending":
            yield "task %s (%s) is pending" % (task["uuid"], task["name_label"])


def _processes(view, host):
    running = {record["uuid"] for record in view.running_on(host).values()}
    expected = {domain["pid"] for domain in map(host.domain, running) if domain}
    expected.update(vbd["pid"] for vbd in tapdisks(host))
    expected.update(nbd_server.all_of(host.root))
    for pid, command in of_root(host.root).items():
        if pid not in expected and not any("-m %s --root" % name in command for name in DAEMONS):
            yield "process %d: %s" % (pid, command)


def _unneeded_tapdisks(view, host):
    needed = {uuid for _, uuid in view.disks_on(host)}
    for tapdisk in tapdisks(host):
        if not any(uuid in tapdisk["args"] for uuid in needed):
            yield "tapdisk %(pid)d on %(args)s" % tapdisk


def _sockets(view, host):
    pids = {str(vbd["pid"]) for vbd in tapdisks(host)}
    needed = view.disks_on(host)
    control = host.root + "/run/blktap-control"
    for directory, _, names in os.walk(control):
        for name in names:
            path = os.path.join(directory, name)
            number = re.match(r"[a-z-]*(\d+)", name)
            if os.path.relpath(directory, control).startswith("nbd"):
                if (os.path.basename(directory), name) not in needed:
                    yield "link %s" % path
            elif (
                os.path.basename(directory) != "tapdisk" and number and number.group(1) not in pids
            ):
                yield "socket or record %s" % path
    for repository, name in _walk_two(host.root + "/dev/sm/phy"):
        if (repository, name) not in needed:
            yield "link /dev/sm/phy/%s/%s" % (repository, name)


def _run_files(_view, host):
    for directory, directories, names in os.walk(host.root + "/run/sxm"):
        for name in names + directories:
            path = os.path.relpath(os.path.join(directory, name), host.root)
            if path not in STANDING:
                yield path


def _failed_units(_view, host):
    return systemd.failed(host.root)


def _notes(_view, host):
    for name in os.listdir(host.root + "/var/lib/sxm"):
        if name.startswith(("arrived-", "lock-")):
            yield "the note of a hook, %s" % name
        if name.endswith(".xenopsd"):
            yield "what xenopsd knew of a VM, %s" % name


def _unneeded_images(view, host):
    srs = {record["uuid"]: ref for ref, record in view.classes["SR"].items()}
    for repository in os.listdir(host.root + "/run/sr-mount"):
        if repository not in srs:
            yield "SR %s is mounted and not in the database" % repository
            continue
        known = {
            vdi["location"] for vdi in view.classes["VDI"].values() if vdi["SR"] == srs[repository]
        }
        images = _images(host, repository)
        parents = {
            image: _parent(os.path.join(host.root, "run/sr-mount", repository, image))
            for image in images
        }
        needed = set()
        for image in images:
            if any(location in image for location in known if not _unmanaged(view, location)):
                while image and image not in needed:
                    needed.add(image)
                    image = parents.get(image)
        needed |= {image + HIDDEN for image in needed}
        for image in sorted(set(images) - needed):
            yield "image %s in SR %s" % (image, repository)


def _open_ports(_view, host):
    for rule in host.open_ports():
        yield "the firewall admits %s" % rule


def _domains(view, host):
    resident = {record["uuid"] for record in view.running_on(host).values()}
    directory = host.root + "/var/lib/xenopsd"
    for name in os.listdir(directory):
        if name.endswith(".json"):
            with open(os.path.join(directory, name)) as stream:
                record = json.load(stream)
            if record["id"] not in resident:
                yield "xenopsd knows VM %s (%s)" % (record["id"], record["power_state"])


def _statistics(view, host):
    """What a host's rrdd has of a VM that runs elsewhere, it would archive over what that VM has
    now."""
    running = {record["uuid"] for record in view.running_on(host).values()}
    memory = host.root + rrdd.MEMORY
    names = os.listdir(memory) if os.path.isdir(memory) else []
    return [
        "its rrdd has statistics of VM %s, which does not run there" % name[: -len(".xml")]
        for name in names
        if name.endswith(".xml") and name[: -len(".xml")] not in running
    ]


_IN_A_POOL = (_unneeded_objects, _unmanaged_disks, _marks_on_vdis, _marks_on_vms)
_ON_A_HOST = (
    _processes,
    _unneeded_tapdisks,
    _sockets,
    _run_files,
    _notes,
    _unneeded_images,
    _open_ports,
    _domains,
    _failed_units,
    _statistics,
)


def _unmanaged(view, location):
    return any(
        vdi["location"] == location and not vdi["managed"] for vdi in view.classes["VDI"].values()
    )


def tapdisks(host):
    """The tapdisks of this host by `tap-ctl list`: [{"pid", "minor", "args"}]."""
    done = subprocess.run(
        [host.root + "/usr/sbin/tap-ctl", "list"],
        stdout=subprocess.PIPE,
        check=True,
        env=environment(host.root),
        timeout=30,
    )
    found = []
    for line in done.stdout.decode().splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        if fields.get("pid"):
            found.append(
                {
                    "pid": int(fields["pid"]),
                    "minor": fields.get("minor", ""),
                    "args": fields.get("args", ""),
                }
            )
    return found


def _images(host, repository):
    """The files in this SR's directory as this host sees it."""
    directory = os.path.join(host.root, "run/sr-mount", repository)
    if not os.path.isdir(directory):
        return []
    return sorted(
        entry.name
        for entry in os.scandir(directory)
        if entry.is_file() and not entry.name.startswith(".")
    )


def _parent(path):
    """The name of the image that this one is based on, or None."""
    done = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=QEMU_IMG,
    )
    backing = json.loads(done.stdout.decode() or "{}").get("backing-filename")
    return os.path.basename(backing) if backing else None


def _walk_two(directory):
    """(name, name) of what stands two levels below."""
    if os.path.isdir(directory):
        for outer in os.listdir(directory):
            for inner in os.listdir(os.path.join(directory, outer)):
                yield outer, inner
