# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's sm behaves as upstream's where the product meets it, and MirrorSR beside it."""

import os
import subprocess
import threading
import time
import uuid
import xmlrpc.client

import pytest
import XenAPI

from sm_host import SIZE, host, io  # noqa: F401
from storage_motion.errors import SmFault

MIB = 1 << 20


@pytest.fixture
def disk(host):
    """A VDI that is not active. Whatever is left in its SR is destroyed."""
    yield host.create(host.fast)
    host.destroy_all()
    assert host.images("fast") == []
    assert host.xapi.VDI.get_all() == []


def write(host, vdi, *commands):
    io(host.activate(vdi), *commands)
    host.deactivate(vdi)


def bases(host):
    return [record for record in host.xapi.VDI.get_all_records().values() if not record["managed"]]


def driver_info(host, name):
    call = xmlrpc.client.dumps(
        ({"command": "sr_get_driver_info", "args": [], "device_config": {}, "host_ref": "h"},),
        "sr_get_driver_info",
    )
    (info,), _ = xmlrpc.client.loads(
        subprocess.check_output(["%s/opt/xensource/sm/%s" % (host.root, name), call])
    )
    return info


def test_what_the_drivers_say_of_themselves(host):
    assert {"ATOMIC_PAUSE", "VDI_ACTIVATE", "VDI_MIRROR"} <= set(
        driver_info(host, "FileSR")["capabilities"]
    )
    mirror = driver_info(host, "MirrorSR")
    assert {"ATOMIC_PAUSE", "VDI_ACTIVATE", "VDI_MIRROR"} <= set(mirror["capabilities"])
    assert mirror["configuration"][0]["key"] == "type"


def test_snapshots_share_a_hidden_base(host, disk):
    write(host, disk, "write -P 0xaa 0 64k")
    snapshot = host.xapi.VDI.snapshot(disk, {})
    (base,) = bases(host)
    assert (base["read_only"], base["name_label"]) == (True, "base copy")
    for vdi in (disk, snapshot):
        assert host.xapi.VDI.get_sm_config(vdi)["vhd-parent"] == base["uuid"]
    write(host, disk, "write -P 0xbb 0 64k")
    host.call(snapshot, "vdi_activate", "false", driver="FileSR")
    io(host.socket(snapshot), "read -P 0xaa 0 64k", readonly=True)
    host.deactivate(snapshot)
    host.xapi.VDI.destroy(snapshot)
    host.xapi.SR.scan(host.fast)
    assert [record["uuid"] for record in bases(host)] == [base["uuid"]]  # the leaf is based on it
    write(host, disk, "read -P 0xbb 0 64k")


def test_of_so_long_a_chain_no_snapshot_is_taken_and_no_clone_made(host, disk):
    """Thirty images (FileSR.py, _snapshot)."""
    place = "%s/srs/fast/%%s.qcow2" % host.root
    names = [str(uuid.uuid4()) for _ in range(29)] + [host.xapi.VDI.get_uuid(disk)]
    for above, name in enumerate(names):
        below = ["-b", place % names[above - 1], "-F", "qcow2"] if above else []
        line = ["qemu-img", "create", "-q", "-f", "qcow2"] + below + [place % name, str(SIZE)]
        subprocess.run(line, check=True, timeout=30)
        if name is not names[-1]:
            open(place % name + ".hidden", "w").close()
    for again in (host.xapi.VDI.snapshot, host.xapi.VDI.clone):
        with pytest.raises(XenAPI.Failure, match="SR_BACKEND_FAILURE_109"):
            again(disk, {})


def test_nothing_written_since_the_last_snapshot_adds_no_base(host, disk):
    host.xapi.VDI.snapshot(disk, {})
    first = bases(host)
    host.xapi.VDI.snapshot(disk, {})
    assert bases(host) == first


def test_clone_and_resize(host, disk):
    write(host, disk, "write -P 0xaa 0 64k")
    clone = host.xapi.VDI.clone(disk, {})
    host.xapi.VDI.resize(clone, str(SIZE + 1))
    qcow2 = host.xapi.VDI.get_sm_config(clone).get("image-format") == "qcow2"  # XCP-ng's
    assert int(host.xapi.VDI.get_virtual_size(clone)) == SIZE + (65536 if qcow2 else 2 * MIB)
    write(host, clone, "read -P 0xaa 0 64k", "read -P 0 %d 64k" % SIZE)
    with pytest.raises(XenAPI.Failure, match="SR_BACKEND_FAILURE_79"):
        host.xapi.VDI.resize(clone, str(SIZE))


def test_compose(host, disk):
    """The receiving of a chain: what is written to a child is put on top of a disk that came
    before."""
    parent = host.create(host.fast, "parent")
    write(host, parent, "write -P 0xaa 0 128k")
    write(host, disk, "write -P 0xbb 64k 64k")
    with host.session_of_a_driver(host.fast):
        host.call(disk, "vdi_compose", parent, driver="FileSR")
        write(host, disk, "read -P 0xaa 0 64k", "read -P 0xbb 64k 64k")
        host.xapi.VDI.set_managed(parent, True)  # so that the fixture may destroy it


def test_a_scan_brings_the_records_up_to_date(host, disk):
    uuid = host.xapi.VDI.get_uuid(disk)
    host.xapi.VDI.forget(disk)
    host.xapi.SR.scan(host.fast)
    found = host.xapi.VDI.get_by_uuid(uuid)
    host.xapi.VDI.add_to_sm_config(found, "paused", "true")
    host.xapi.SR.scan(host.fast)
    assert host.tags(found) == {"paused": "true"}  # a scan leaves the gate alone
    host.xapi.VDI.remove_from_sm_config(found, "paused")
    os.unlink("%s/srs/fast/%s.qcow2" % (host.root, uuid))
    host.xapi.SR.scan(host.fast)
    assert host.xapi.VDI.get_all() == []


def test_an_activation_waits_while_the_disk_is_paused(host, disk):
    host.xapi.VDI.add_to_sm_config(disk, "paused", "true")
    opened = []
    other = host.pool.session().xenapi

    def open_gate():
        opened.append(time.monotonic())
        other.VDI.remove_from_sm_config(disk, "paused")

    timer = threading.Timer(3, open_gate)
    timer.start()
    host.activate(disk)
    timer.join()
    assert time.monotonic() > opened[0]
    assert host.tags(disk) == {"host_" + host.ref: "RW"}


def test_an_active_disk_is_not_activated_again(host, disk):
    host.activate(disk)
    with pytest.raises(SmFault) as raised:
        host.call(disk, "vdi_activate", "true", driver="FileSR")
    assert raised.value.fault == 46
    assert host.tags(disk) == {"host_" + host.ref: "RW"}


def test_an_active_disk_is_deleted_if_nobody_but_sm_knows(host, disk):
    """xapi refuses it for a VBD that is attached; SM asks its own process (FileSR.py, delete)."""
    path = "%s/srs/fast/%s.qcow2" % (host.root, host.xapi.VDI.get_uuid(disk))
    host.activate(disk)
    host.xapi.VDI.destroy(disk)
    assert not os.path.exists(path)


def test_the_tag_of_a_tapdisk_that_died_is_cleared(host, disk):
    host.xapi.VDI.add_to_sm_config(disk, "host_" + host.ref, "RW")
    host.activate(disk)
    assert host.tags(disk) == {"host_" + host.ref: "RW"}


def test_mirrorsr_is_no_type_of_sr_and_names_the_types_that_it_drives(host):
    with pytest.raises(XenAPI.Failure) as raised:
        host.xapi.SR.create(
            host.ref,
            {"type": "ext", "location": host.root + "/srs/mirrored"},
            "0",
            "mirrored",
            "",
            "mirror",
            "user",
            False,
            {},
        )
    assert raised.value.details[0] == "SR_UNKNOWN_DRIVER"
    call = xmlrpc.client.dumps(
        (
            {
                "command": "sr_scan",
                "args": [],
                "device_config": {"type": "iso"},
                "host_ref": "h",
                "sr_uuid": "u",
                "session_ref": host.session._session,
            },
        ),
        "sr_scan",
    )
    with pytest.raises(xmlrpc.client.Fault) as fault:
        xmlrpc.client.loads(
            subprocess.check_output([host.root + "/opt/xensource/sm/MirrorSR", call])
        )
    assert "ext, file, lvm, lvmohba, lvmoiscsi, nfs, smb, xfs, zfs" in fault.value.faultString
