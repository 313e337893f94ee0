# SPDX-License-Identifier: LGPL-2.1-only
"""All that xapi says of a VM, to be the same before and after a move, but for what
docs/what-moves.md lists ("What differs afterwards")."""

import os
import re

from lab.pools import vms
from storage_motion.plan.bases import RELATED

PAGE = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    "docs",
    "what-moves.md",
)
HEADING = "## What differs afterwards\n"
BETWEEN, WITHIN, COPIED = "between pools", "within its pool", "of a copy"
"""Kinds of move: columns of that table."""
MAY = "may"
"""In place of "yes": what real hosts may say anew, and the lab's do not."""
WORKED_OUT = ("allowed_operations",)
"""Fields that are about what one may do just now, of which xapi keeps nothing."""
OF_XAPI = ("mac_seed", "import_task")
"""Keys of a VM's other_config: of the first one xapi makes MAC addresses."""
NULL = "OpaqueRef:NULL"


def listed(kind, cells=("yes", MAY)):
    """What may differ after a move of this kind, by the page: {"VDI.uuid", ...}."""
    with open(PAGE, encoding="utf-8") as page:
        section = page.read().partition(HEADING)[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    column = rows[0].index(kind)
    found = set()
    for row in rows[2:]:
        if row[column] in cells:
            for name, fields in re.findall(r"`(\w+)\.([\w:, -]+)`", row[0]):
                found |= {"%s.%s" % (name, field) for field in fields.split(", ")}
    return found


def differing(before, after):
    """{"VDI.uuid": (which one, what it was, what it is)}; of a field that
    differs of several, one of them. An object that is gone, or is more, is a difference of its
    class."""
    found = {}
    for name in sorted(set(before) | set(after)):
        of = name.split(" ")[0]
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            found[of] = (name, was, now)
            continue
        for field in sorted(set(was) | set(now)):
            if was.get(field) != now.get(field):
                found["%s.%s" % (of, field)] = (name, was.get(field), now.get(field))
    return found


def of(scene):
    """The same of a scene's VM, with its snapshots."""
    return of_vm(scene.pool.xapi, scene.uuid)


def of_vm(api, uuid, snapshots=True):
    """{"VM", "VBD 0", "VDI 0", "VIF 0", "VM_metrics", ..., and the same of each of its `snapshots`,
    as "VBD 0 of first": its record}. A reference to one of them is its name here."""
    vm = api.VM.get_by_uuid(uuid)
    objects = {}
    for owner in [vm] + (api.VM.get_snapshots(vm) if snapshots else []):
        suffix = "" if owner == vm else " of %s" % api.VM.get_name_label(owner)
        _collect(api, owner, suffix, objects)
    names = {ref: name for name, (ref, _) in objects.items()}
    return {
        name: {
            field: _known(value, names)
            for field, value in record.items()
            if field not in WORKED_OUT
        }
        for name, (_, record) in objects.items()
    }


def _collect(api, vm, suffix, objects):
    record = api.VM.get_record(vm)
    for key in OF_XAPI:  # by themselves, as below
        record["other_config:" + key] = record["other_config"].pop(key, None)
    objects["VM" + suffix] = (vm, record)
    for of_class, ref in [
        ("VM_metrics", record["metrics"]),
        ("VM_guest_metrics", record["guest_metrics"]),
    ]:
        if ref != NULL:
            objects[of_class + suffix] = (ref, getattr(api, of_class).get_record(ref))
    if record["suspend_VDI"] != NULL:
        objects["VDI" + suffix] = (record["suspend_VDI"], _vdi(api, record["suspend_VDI"]))
    for number, vtpm in enumerate(record["VTPMs"]):
        objects["VTPM %d%s" % (number, suffix)] = (vtpm, api.VTPM.get_record(vtpm))
    for vif in record["VIFs"]:
        interface = api.VIF.get_record(vif)
        objects["VIF %s%s" % (interface["device"], suffix)] = (vif, interface)
    for vbd in record["VBDs"]:
        drive = api.VBD.get_record(vbd)
        objects["VBD %s%s" % (drive["userdevice"], suffix)] = (vbd, drive)
        if drive["VDI"] != NULL:
            name = "VDI %s%s" % (drive["userdevice"], suffix)
            objects[name] = (drive["VDI"], _vdi(api, drive["VDI"]))


def _vdi(api, ref):
    vdi = api.VDI.get_record(ref)
    # by itself: all other keys stay
    vdi["other_config:" + RELATED] = vdi["other_config"].pop(RELATED, None)
    if vdi["snapshot_of"] not in api.VDI.get_all():
        # what a checkpoint's image was taken of goes when the VM goes on: to name it is to name
        # nothing
        vdi["snapshot_of"] = NULL
    return vdi


def _known(value, names):
    """A field's value; the order of a set is none."""
    if isinstance(value, list):
        return sorted((_known(item, names) for item in value), key=str)
    return names.get(value, value) if isinstance(value, str) else value


class Watched:
    """A VM that has something in each field that somebody may have set, and what is said of it."""

    def __init__(self, scene):
        self._scene = scene
        self.seen = {BETWEEN: set(), WITHIN: set(), COPIED: set()}
        api = scene.pool.xapi
        vm = api.VM.get_by_uuid(scene.uuid)
        api.VM.set_name_description(vm, "what it is for")
        api.VM.set_tags(vm, ["one", "another"])
        api.VM.add_to_other_config(vm, "of.somebody", "x")
        api.VM.add_to_xenstore_data(vm, "vm-data/of-somebody", "x")
        api.VM.add_to_platform(vm, "viridian", "true")
        api.VM.set_order(vm, "3")
        api.VM.set_start_delay(vm, "4")
        api.VM.set_shutdown_delay(vm, "5")
        api.VM.set_actions_after_crash(vm, "restart")
        api.VM.add_to_blocked_operations(vm, "make_into_template", vms.BY_ITS_USER)
        for vbd in api.VM.get_VBDs(vm):
            api.VBD.add_to_other_config(vbd, "of.somebody", "x")
            api.VBD.set_qos_algorithm_type(vbd, "ionice")
            api.VBD.add_to_qos_algorithm_params(vbd, "sched", "rt")
            vdi = api.VBD.get_VDI(vbd)
            api.VDI.set_name_description(vdi, "what is on it")
            api.VDI.set_tags(vdi, ["one"])
            api.VDI.add_to_other_config(vdi, "of.somebody", "x")
            api.VDI.add_to_xenstore_data(vdi, "of-somebody", "x")
            api.VDI.set_allow_caching(vdi, True)
        for vif in api.VM.get_VIFs(vm):
            api.VIF.add_to_other_config(vif, "of.somebody", "x")
            api.VIF.set_qos_algorithm_type(vif, "ratelimit")
            api.VIF.add_to_qos_algorithm_params(vif, "kbps", "100")
            api.VIF.set_locking_mode(vif, "locked")
            api.VIF.set_ipv4_allowed(vif, ["10.0.0.9"])

    def begin(self, snapshots=True):
        """What is said of it now."""
        self._before = of_vm(self._scene.pool.xapi, self._scene.uuid, snapshots)

    def assert_alike(self, kind, lost=()):
        """It differs from what was said at `begin` in what the page lists for this kind of move,
        and in what this VM loses (fields) by "What does not come along"."""
        self._assert_alike(kind, of(self._scene), lost)

    def assert_copied(self, api, uuid):
        """The same of VM `uuid` of another pool (its API), a copy; but for the snapshots, which
        stay."""
        self._assert_alike(COPIED, of_vm(api, uuid), ("VM.blocked_operations",))

    def _assert_alike(self, kind, now, lost=()):
        found = differing(self._before, now)
        self.seen[kind] |= set(found)
        more = {field: found[field] for field in set(found) - listed(kind) - set(lost)}
        assert not more, "\n".join("%s: %s" % pair for pair in sorted(more.items()))
