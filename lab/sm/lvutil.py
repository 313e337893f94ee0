# SPDX-License-Identifier: LGPL-2.1-only
"""Volume groups and logical volumes, by the LVM commands.

What upstream reads from the images while a volume is active (parent, size, hidden) is kept in the
volume's tags here, so that a look over the SR activates nothing.
"""

import collections
import json
import os

from sm.core import util

EXT_PREFIX = "XSLocalEXT-"
VG_PREFIX = "VG_XenStorage-"
VG_LOCATION = "/dev"
LVM_SIZE_INCREMENT = 4 * 1024 * 1024

LogicalVolume = collections.namedtuple("LogicalVolume", "name path size tags active")
"""`size` in bytes; `tags` a dict: a tag is "key=value", or a bare key (its value is then "")."""


def createVG(devices, vg):
    """Make a volume group of whole devices (a list of paths)."""
    util.pread(["pvcreate", "-qq", "-y", "-ff"] + devices)
    util.pread(["vgcreate", "-qq", vg] + devices)


def removeVG(vg):
    """Remove an empty volume group, and the marks on its devices."""
    devices = [
        row["pv_name"]
        for row in _report("pv", "pvs", "-o", "pv_name,vg_name")
        if row["vg_name"] == vg
    ]
    util.pread(["vgremove", "-qq", "-f", vg])
    util.pread(["pvremove", "-qq", "-y"] + devices)


def checkVG(vg):
    """Whether the volume group is there."""
    return vg in [row["vg_name"] for row in _report("vg", "vgs", "-o", "vg_name")]


def getVGstats(vg):
    """(size, free) of a volume group, in bytes."""
    (row,) = _report("vg", "vgs", "-o", "vg_size,vg_free", vg)
    return int(row["vg_size"]), int(row["vg_free"])


def listLVs(vg):
    """The logical volumes of a group: name -> LogicalVolume."""
    found = {}
    for row in _report("lv", "lvs", "-o", "lv_name,lv_path,lv_size,lv_tags,lv_active", vg):
        tags = dict(tag.partition("=")[::2] for tag in row["lv_tags"].split(",") if tag)
        found[row["lv_name"]] = LogicalVolume(
            row["lv_name"],
            os.path.join(VG_LOCATION, vg, row["lv_name"]),
            int(row["lv_size"]),
            tags,
            row["lv_active"] == "active",
        )
    return found


def create(path, size, tags=None):
    """Make a logical volume of at least `size` bytes, with `tags` (a dict); it is active then."""
    vg, name = path.split("/")[-2:]
    line = ["lvcreate", "-qq", "-y", "-Wy", "-Zy", "-n", name, "-L", "%db" % size]
    for key, value in sorted((tags or {}).items()):
        line += ["--addtag", _tag(key, value)]
    util.pread(line + [vg])


def remove(path):
    """Remove a logical volume."""
    util.pread(["lvremove", "-qq", "-f", path])


def rename(path, new):
    """Rename a logical volume, active or not."""
    util.pread(["lvrename", "-qq", path, new])


def resize(path, size):
    """Make a logical volume `size` bytes long (rounded up to extents). What lies beyond is lost."""
    util.pread(["lvresize", "-qq", "-f", "-L", "%db" % size, path])


def change(path, add=None, remove=None, readonly=None):
    """Change tags (dicts) and whether the volume may be written to."""
    line = ["lvchange", "-qq", "-y"]
    for option, tags in (("--deltag", remove), ("--addtag", add)):
        for key, value in sorted((tags or {}).items()):
            line += [option, _tag(key, value)]
    if readonly is not None:
        line += ["--permission", "r" if readonly else "rw"]
    util.pread(line + [path])


def activate(*paths):
    """Make volumes accessible: their device nodes are there when this returns."""
    util.pread(["lvchange", "-qq", "-ay"] + list(paths))


def deactivate(*paths):
    """Undo activate. Raises CommandException if one is open."""
    util.pread(["lvchange", "-qq", "-an"] + list(paths))


def _tag(key, value):
    return "%s=%s" % (key, value) if value else key


def _report(kind, command, *options):
    text = util.pread(
        [command, "--reportformat", "json", "--units", "b", "--nosuffix"] + list(options)
    )
    return json.loads(text)["report"][0][kind]
