# SPDX-License-Identifier: LGPL-2.1-only
"""The logical volumes of SRs on LVM, looked at from outside sm: what an SR's directory is for the
others."""

import contextlib
import glob
import json
import os
import shutil
import subprocess

GROUP = "VG_XenStorage-%s"
COMMAND = 60.0


def of(repository):
    """The images of an SR: name -> (path, parent's uuid or None, whether it is active). Empty where
    it is not on LVM."""
    if shutil.which("lvs") is None:
        return {}
    done = subprocess.run(
        ["lvs", "--reportformat", "json", "-o", "lv_name,lv_tags,lv_active", GROUP % repository],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=COMMAND,
    )
    if done.returncode != 0:
        return {}
    found = {}
    for row in json.loads(done.stdout.decode())["report"][0]["lv"]:
        tags = dict(tag.partition("=")[::2] for tag in row["lv_tags"].split(","))
        found[row["lv_name"]] = (
            os.path.join("/dev", GROUP % repository, row["lv_name"]),
            tags.get("parent"),
            row["lv_active"] == "active",
        )
    return found


def occupied(root, repository, location):
    """The bytes that the image of a VDI has of its SR on the host at `root`: its volume, or the
    blocks of its file. LookupError unless there is just one."""
    names = [name for name in of(repository) if name.endswith(location)]
    if names:
        sizes = [_volume_size(repository, name) for name in names]
    else:
        sizes = [
            os.stat(path).st_blocks * 512
            for path in glob.glob("%s/run/sr-mount/%s/%s*" % (root, repository, location))
        ]
    if len(sizes) != 1:
        raise LookupError("%d images are called %s in SR %s" % (len(sizes), location, repository))
    return sizes[0]


def _volume_size(repository, name):
    done = subprocess.run(
        [
            "lvs",
            "--noheadings",
            "--units",
            "b",
            "--nosuffix",
            "-o",
            "lv_size",
            "%s/%s" % (GROUP % repository, name),
        ],
        stdout=subprocess.PIPE,
        check=True,
        timeout=COMMAND,
    )
    return int(done.stdout)


@contextlib.contextmanager
def active(repository, location, volumes):
    """The path of the image of a VDI; its whole chain is active meanwhile. `volumes`: what `of`
    gives. LookupError unless there is just one."""
    names = [name for name in volumes if name.endswith(location)]
    if len(names) != 1:
        raise LookupError("%d volumes are called %s in SR %s" % (len(names), location, repository))
    idle = [
        path
        for path, _, is_active in (volumes[name] for name in chain(volumes, names[0]))
        if not is_active
    ]
    if idle:
        subprocess.run(["lvchange", "-qq", "-ay"] + idle, check=True, timeout=COMMAND)
    try:
        yield volumes[names[0]][0]
    finally:
        if idle:
            subprocess.run(["lvchange", "-qq", "-an"] + idle, check=True, timeout=COMMAND)


def chain(volumes, name):
    """The names of the images of a chain, leaf first."""
    found = []
    while name:
        found.append(name)
        parent = volumes[name][1]
        name = next((other for other in volumes if parent and other.endswith(parent)), None)
    return found


def at_rest(lab):
    """Sentences about every volume of the lab that stands, or is active, without need; compare
    leftovers.at_rest."""
    left = []
    for pool in lab.pools:
        vdis, vbds = pool.xapi.VDI.get_all_records(), pool.xapi.VBD.get_all_records().values()
        attached = {vbd["VDI"] for vbd in vbds if vbd["currently_attached"]}
        for sr, record in pool.xapi.SR.get_all_records().items():
            volumes = of(record["uuid"])
            needed, active_needed = set(), set()
            for ref, vdi in vdis.items():
                if vdi["SR"] == sr and vdi["managed"]:
                    names = [name for name in volumes if name.endswith(vdi["location"])]
                    left += [] if names or not volumes else ["VDI %s has no volume" % vdi["uuid"]]
                    for name in names:
                        needed.update(chain(volumes, name))
                        active_needed.update(chain(volumes, name) if ref in attached else ())
            for name, (path, _, is_active) in sorted(volumes.items()):
                if name not in needed:
                    left.append("volume %s belongs to no VDI" % path)
                elif is_active and name not in active_needed:
                    left.append("volume %s is active" % path)
                elif not is_active and name in active_needed:
                    left.append("volume %s is in use and not active" % path)
    return left
