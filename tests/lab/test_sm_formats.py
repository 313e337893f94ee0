# SPDX-License-Identifier: LGPL-2.1-only
"""XCP-ng's two image formats in its layout of the lab, by sm and by MirrorSR."""

import json
import subprocess
import uuid as uuids

import pytest

from lab.pools import topology
from lab.pools.lab import Lab
from sm_host import SmHost, io
from storage_motion.dom0 import blktap, tapctl
from storage_motion.wire import nbd_client

PLAN = (topology.PoolPlan("A", ("a1",), False),)
MIB = 1 << 20
VHD_MAX = 2040 << 30


@pytest.fixture(scope="module")
def host(request):
    with Lab(PLAN, release="xcp-ng-8.3") as lab, pytest.MonkeyPatch.context() as patch:
        made = SmHost(lab)
        patch.setenv("SXM_ROOT", made.root)
        yield made


def create(host, size, **sm_config):
    sr = host.fast
    return host.xapi.VDI.create(
        {
            "SR": sr,
            "virtual_size": str(size),
            "type": "user",
            "name_label": "d",
            "name_description": "",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "tags": [],
            "xenstore_data": {},
            "sm_config": {key.replace("_", "-"): value for key, value in sm_config.items()},
        }
    )


@pytest.mark.parametrize(
    "asked, size, made, kind",
    [
        ({}, 64 * MIB + 1, 64 * MIB + 65536, "qcow2"),
        ({"image_format": "qcow2"}, 512, 65536, "qcow2"),
        ({"image_format": "vhd"}, 64 * MIB + 65536, 66 * MIB, "vhd"),
        ({"type": "vhd"}, 64 * MIB, 64 * MIB, "vhd"),
        ({}, VHD_MAX + 512, VHD_MAX + 65536, "qcow2"),
    ],
)
def test_what_a_new_vdi_is(host, asked, size, made, kind):
    vdi = create(host, size, **asked)
    record = host.xapi.VDI.get_record(vdi)
    assert (int(record["virtual_size"]), record["sm_config"]) == (made, {"image-format": kind})
    assert host.images("fast") == ["%s.%s" % (record["uuid"], kind)]
    host.xapi.SR.scan(host.fast)
    assert host.xapi.VDI.get_sm_config(vdi) == {"image-format": kind}
    host.xapi.VDI.destroy(vdi)


@pytest.mark.parametrize(
    "asked, size, code",
    [
        ({"image_format": "qcow3"}, MIB, "SR_BACKEND_FAILURE_66"),
        ({"image_format": "vhd"}, VHD_MAX + 512, "SR_BACKEND_FAILURE_79"),
        ({}, 17589500641280 + 512, "SR_BACKEND_FAILURE_79"),
    ],
)
def test_what_no_vdi_can_be(host, asked, size, code):
    with pytest.raises(Exception, match=code):
        create(host, size, **asked)
    assert host.images("fast") == []


@pytest.mark.parametrize("kind, images", [("vhd", 2), ("qcow2", 1)])
def test_a_chain_in_the_stats_and_what_the_driver_sees_of_it(host, kind, images):
    """A chain of VHDs is several images in tapdisk's statistics, one of QCOW2 a single one."""
    vdi = create(host, 8 * MIB, image_format=kind)
    socket = host.activate(vdi)
    io(socket, "write -P 0xaa 1M 64k")
    snapshot = host.xapi.VDI.snapshot(vdi, {})
    (tapdisk,) = host.tapdisks()
    stats = tapctl.stats(tapdisk)
    assert [image["driver"]["name"] for image in stats["images"]] == [kind] * images
    assert stats["tap"]["minor"] == tapdisk.minor
    assert host.xapi.VDI.get_sm_config(snapshot)["image-format"] == kind
    opened = json.loads(host.call(snapshot, "vdi_copy_open"))
    assert opened["depth"] == {"vhd": blktap.MOST, "qcow2": blktap.ALONE}[kind]
    io(opened["socket"], "read -P 0xaa 1M 64k", readonly=True)
    extents = {"size": 8 * MIB, "extents": [[MIB, 65536]]}
    assert json.loads(host.call(snapshot, "vdi_extents")) == extents
    host.call(snapshot, "vdi_copy_close")
    host.deactivate(vdi)
    for one in (snapshot, vdi):
        host.xapi.VDI.destroy(one)
    assert host.images("fast") == [] and host.tapdisks() == []


@pytest.mark.parametrize("kind", ["vhd", "qcow2"])
def test_a_size_that_is_no_multiple_of_anything_but_512(host, kind):
    size = 8 * MIB + 512
    uuid = str(uuids.uuid4())
    path = "%s/srs/fast/%s.%s" % (host.root, uuid, kind)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0xcc %d 512" % (size - 512), path],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    host.xapi.SR.scan(host.fast)
    vdi = host.xapi.VDI.get_by_uuid(uuid)
    assert int(host.xapi.VDI.get_virtual_size(vdi)) == size
    opened = json.loads(host.call(vdi, "vdi_copy_open"))
    client = nbd_client.connect(opened["socket"], depth=opened["depth"])
    assert client.size == size and bytes(client.read(size - 512, 512)) == b"\xcc" * 512
    client.close()
    assert json.loads(host.call(vdi, "vdi_extents")) == {"size": size, "extents": [[8 * MIB, 512]]}
    host.call(vdi, "vdi_copy_close")
    host.xapi.VDI.destroy(vdi)
