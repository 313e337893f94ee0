# SPDX-License-Identifier: LGPL-2.1-only
"""The storage that SRs of the five types use, brought up inside the guest: three of each, for two
SRs in one pool and one in another.

Nothing of it survives the guest, so nothing is ever taken down. The recipes are those of
docs/facts/storage-vm.md, 3.
"""

import glob
import hashlib
import os
import subprocess
import time

from lab.storage_guest.machine import Disk

GIB = 1 << 30
TYPES = ("lvm", "ext", "nfs", "lvmoiscsi", "lvmohba")
SIDES = ("a", "b", "c")
DISKS = tuple(
    Disk("%s-%s" % (kind, side), 4 * GIB) for kind in ("lvm", "ext") for side in SIDES
) + (Disk("backing", 16 * GIB),)
"""The disks that the guest needs; `backing` has the NFS exports and the LUNs' files."""
BACKING = "/srv"
LUN_SIZE = 3 * GIB
COMMAND = 120.0
APPEAR = 60.0
TARGETS = "/sys/kernel/config/target"
IQN = "iqn.2024-01.lab.storage:%s"
INITIATOR = "iqn.2024-01.lab.storage:initiator"
PORTALS = ("127.0.0.1:3261", "127.0.0.2:3261")
"""Of the target with two paths."""
MULTIPATH = """defaults {
    user_friendly_names no
    find_multipaths no
    polling_interval 2
    no_path_retry 5
    path_grouping_policy multibus
}
blacklist {
    wwid ".*"
}
blacklist_exceptions {
    wwid "%s"
}
"""
FC_INITIATOR_MAC = "02:00:00:00:0a:01"
FC_TARGET_MAC = "02:00:00:00:0b:01"


def run(*command):
    """Run a program of the guest. Raises CalledProcessError, TimeoutExpired."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=COMMAND)


def device_config(sr_type, side):
    """An administrator's device-config for an SR of that type."""
    return {
        "lvm": {"device": "/dev/disk/by-id/virtio-lvm-" + side},
        "ext": {"device": "/dev/disk/by-id/virtio-ext-" + side},
        # tapdisk writes with O_DIRECT, the lab's does not: so that its writes, too, are at the
        # server before they are answered
        "nfs": {
            "server": "127.0.0.1",
            "serverpath": "%s/nfs-%s" % (BACKING, side),
            "options": "sync",
        },
        "lvmoiscsi": {
            "target": "127.0.0.1",
            "targetIQN": IQN % side,
            "SCSIid": scsi_id("iscsi-" + side),
        },
        "lvmohba": {"SCSIid": scsi_id("fc-" + side)},
    }[sr_type]


def start(sr_types):
    """Bring up what SRs of these types need."""
    if {"nfs", "lvmoiscsi", "lvmohba"} & set(sr_types):
        run("mkfs.ext4", "-q", "-F", "/dev/disk/by-id/virtio-backing")
        run("mount", "/dev/disk/by-id/virtio-backing", BACKING)
    if "nfs" in sr_types:
        _start_nfs()
    if {"lvmoiscsi", "lvmohba"} & set(sr_types):
        for module in ("configfs", "target_core_mod", "target_core_file", "sd_mod"):
            run("modprobe", module)
        if not os.path.ismount("/sys/kernel/config"):
            run("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    if "lvmoiscsi" in sr_types:
        _start_iscsi()
    if "lvmohba" in sr_types:
        _start_fibre_channel()


def _start_nfs():
    run("modprobe", "nfsd")
    run("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    with open("/etc/exports", "w") as exports:
        for side in SIDES:
            os.mkdir("%s/nfs-%s" % (BACKING, side))
            exports.write(
                "%s/nfs-%s *(rw,no_root_squash,no_subtree_check,insecure)\n" % (BACKING, side)
            )
    run("rpcbind", "-w")
    run("rpc.statd", "--no-notify")
    run("exportfs", "-ra")
    start_nfs_threads()
    run("rpc.mountd")


def start_nfs_threads():
    """Have the NFS server answer."""
    run("rpc.nfsd", "4")


def stop_nfs():
    """Have the NFS server answer nobody any more, and nothing be read from what the kernel
    remembers of it."""
    run("rpc.nfsd", "0")
    _set("/proc/sys/vm/drop_caches", "1")


def serial(name):
    """The serial number of a LUN: the kernel makes its NAA id of the first 25 digits, so they must
    differ."""
    return hashlib.md5(name.encode()).hexdigest()


def scsi_id(name):
    """The SCSI id of a LUN."""
    return "36001405" + serial(name)[:25]


def _set(path, value):
    with open(path, "w") as attribute:
        attribute.write(value)


def _make_lun(name):
    """A LUN of LIO on a sparse file. Returns its directory."""
    path = "%s/%s.lun" % (BACKING, name)
    with open(path, "wb") as backing:
        backing.truncate(LUN_SIZE)
    store = "%s/core/fileio_0/%s" % (TARGETS, name)
    os.makedirs(store)
    _set(store + "/control", "fd_dev_name=%s,fd_dev_size=%d,fd_buffered_io=1" % (path, LUN_SIZE))
    _set(store + "/wwn/vpd_unit_serial", serial(name))
    _set(store + "/enable", "1")
    for feature in ("emulate_tpu", "emulate_tpws"):
        _set("%s/attrib/%s" % (store, feature), "1")
    return store


def _offer(group, number, store):
    os.makedirs("%s/lun/lun_%d" % (group, number))
    os.symlink(store, "%s/lun/lun_%d/store" % (group, number))


def _open_to_all(group):
    for attribute, value in (
        ("authentication", "0"),
        ("demo_mode_write_protect", "0"),
        ("generate_node_acls", "1"),
        ("cache_dynamic_acls", "1"),
    ):
        _set("%s/attrib/%s" % (group, attribute), value)
    _set(group + "/enable", "1")


def _start_iscsi():
    for module in ("iscsi_target_mod", "iscsi_tcp"):
        run("modprobe", module)
    for side in SIDES:
        group = "%s/iscsi/%s/tpgt_1" % (TARGETS, IQN % side)
        os.makedirs(group + "/np/127.0.0.1:3260")
        _offer(group, 0, _make_lun("iscsi-" + side))
        _open_to_all(group)
    _set("/etc/iscsi/initiatorname.iscsi", "InitiatorName=%s\n" % INITIATOR)
    run("iscsid")


def start_multipath():
    """One more iSCSI LUN, logged in to over two portals, with dm-multipath over both. Returns its
    SCSI id."""
    found, name = scsi_id("iscsi-m"), IQN % "m"
    # dm-multipath is to leave the others alone
    _set("/etc/multipath.conf", MULTIPATH % found)
    run("modprobe", "dm_multipath")
    run("multipathd")
    group = "%s/iscsi/%s/tpgt_1" % (TARGETS, name)
    for portal in PORTALS:
        os.makedirs("%s/np/%s" % (group, portal))
    _offer(group, 0, _make_lun("iscsi-m"))
    _open_to_all(group)
    for portal in PORTALS:
        run("iscsiadm", "-m", "discovery", "-t", "st", "-p", portal)
        run("iscsiadm", "-m", "node", "-T", name, "-p", portal, "-l")
    deadline = time.monotonic() + APPEAR
    while list(path_states(found).values()) != ["active"] * len(PORTALS):
        if time.monotonic() > deadline:
            raise TimeoutError("the paths are %s after %d s" % (path_states(found), APPEAR))
        time.sleep(0.5)
    return found


def path_states(name):
    """The paths of a multipath map, as the kernel uses them: {"sda": "active" or "failed"}."""
    done = subprocess.run(
        ["multipathd", "show", "paths", "raw", "format", "%w %d %t"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=COMMAND,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[1]: row[2] for row in sorted(rows) if len(row) == 3 and row[0] == name}


def paths(name):
    """The disks of a multipath map: ["sda", "sdb"]."""
    return sorted(path_states(name))


def set_path(disk, state):
    """Take a disk of the kernel's "offline", or have it "running" again."""
    # without the end of the line: EINVAL (scsi_sysfs.c, store_state_field)
    _set("/sys/block/%s/device/state" % disk, state + "\n")


def _wwpn(interface):
    """The port name of the Fibre Channel adapter over a network interface, as configfs wants it:
    "20:00:02:..."."""
    deadline = time.monotonic() + APPEAR
    while time.monotonic() < deadline:
        for host in glob.glob("/sys/class/fc_host/*"):
            with open(host + "/symbolic_name") as name, open(host + "/port_name") as port:
                if name.read().strip().endswith(" over " + interface):
                    digits = port.read().strip()[2:]
                    return ":".join(digits[at : at + 2] for at in range(0, 16, 2))
        time.sleep(0.1)
    raise TimeoutError("no Fibre Channel adapter over %s within %d s" % (interface, APPEAR))


def _start_fibre_channel():
    """An adapter and a target port, over the two ends of a virtual link (FCoE, VN2VN).

    The link comes up when both adapters are whole: a FIP frame that reaches an adapter in the
    making kills the kernel's worker (fcoe_ctlr_vn_recv reads fip->lp, which fcoe.c sets after it
    has begun to listen).
    """
    for module in ("fcoe", "tcm_fc"):
        run("modprobe", module)
    run("ip", "link", "add", "fci", "type", "veth", "peer", "name", "fct")
    for interface, address in (("fci", FC_INITIATOR_MAC), ("fct", FC_TARGET_MAC)):
        run("ip", "link", "set", interface, "address", address, "mtu", "2500")
        _set("/sys/module/libfcoe/parameters/create_vn2vn", interface)
    group = "%s/fc/%s/tpgt_1" % (TARGETS, _wwpn("fct"))
    # the initiator's port name follows from its address
    allowed = "%s/acls/20:00:%s" % (group, FC_INITIATOR_MAC)
    os.makedirs(group)
    for number, side in enumerate(SIDES):
        _offer(group, number, _make_lun("fc-" + side))
    for number in range(len(SIDES)):
        os.makedirs("%s/lun_%d" % (allowed, number))
        os.symlink("%s/lun/lun_%d" % (group, number), "%s/lun_%d/default" % (allowed, number))
    for interface in ("fct", "fci"):
        run("ip", "link", "set", interface, "up")
    deadline = time.monotonic() + APPEAR
    while not all(os.path.exists("/dev/disk/by-scsid/" + scsi_id("fc-" + side)) for side in SIDES):
        if time.monotonic() > deadline:
            raise TimeoutError("the Fibre Channel LUNs have not appeared within %d s" % APPEAR)
        time.sleep(0.1)
