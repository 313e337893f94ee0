# SPDX-License-Identifier: LGPL-2.1-only
"""SCSI disks by their SCSI id, as udev names them in /dev/disk/by-scsid/<id>/ (on a real host by
sm's own rules)."""

import os
import time

from sm.core import util

BY_ID = "/dev/disk/by-scsid"
MULTIPATH = "/dev/mapper"
POLL = 0.1


def paths(scsi_id):
    """The disks with this id, one for each path to it: ["/dev/sda", ...]."""
    directory = os.path.join(BY_ID, scsi_id)
    try:
        return sorted(
            os.path.realpath(os.path.join(directory, name)) for name in os.listdir(directory)
        )
    except FileNotFoundError:
        return []


def ids():
    """The ids of all SCSI disks."""
    try:
        return sorted(os.listdir(BY_ID))
    except FileNotFoundError:
        return []


def device(scsi_id):
    """The device to use for a disk: its multipath map if there is one. None if there is no such
    disk."""
    mapped = os.path.join(MULTIPATH, scsi_id)
    if os.path.exists(mapped):
        return mapped
    return next(iter(paths(scsi_id)), None)


def wait_for(scsi_id, bound):
    """The device of a disk that is about to appear, or None when `bound` seconds have passed."""
    until = time.monotonic() + bound
    while device(scsi_id) is None and time.monotonic() < until:
        time.sleep(POLL)
    return device(scsi_id)


def remove(scsi_id):
    """Remove the kernel's disks with this id."""
    for path in paths(scsi_id):
        util.SMlog("Removing %s" % path)
        with open("/sys/block/%s/device/delete" % os.path.basename(path), "w") as node:
            node.write("1\n")


def host_of(path):
    """The SCSI host ("host3") that a disk is on."""
    address = os.path.basename(os.path.realpath("/sys/block/%s/device" % os.path.basename(path)))
    return "host" + address.split(":")[0]
