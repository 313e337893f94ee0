# SPDX-License-Identifier: LGPL-2.1-only
"""SRs on a real kernel's storage: plugged, unplugged, scanned and forgotten."""

import glob
import subprocess

import pytest
import XenAPI

from five import MIB, SIZE, TYPES
from lab.pools import volumes
from lab.storage_guest import services

EMPTY = {
    "virtual_size": str(SIZE),
    "type": "user",
    "name_label": "kept",
    "name_description": "",
    "sharable": False,
    "read_only": False,
    "other_config": {},
    "tags": [],
    "xenstore_data": {},
    "sm_config": {},
}
"""A disk to be made, but for its SR."""

pytestmark = pytest.mark.timeout(2400)


def printed(*command):
    """What a program of the guest prints, whatever its exit status."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120
    ).stdout


def traces(root, sr_uuid, sr_type, side):
    """What the kernel has of an SR while it is plugged, and must not have afterwards."""
    found = [line.split()[1] for line in open("/proc/self/mounts") if sr_uuid in line]
    found += [path for path, _, active in volumes.of(sr_uuid).values() if active]
    if sr_type == "lvmoiscsi":
        found += [
            line
            for line in printed("iscsiadm", "-m", "session").splitlines()
            if services.IQN % side in line.split()
        ]
    if sr_type == "ext":
        found += glob.glob("/dev/XSLocalEXT-%s/*" % sr_uuid)
    return found


def test_on_lvm_no_format_may_be_asked_for(five):
    """As XCP-ng's LVMSR has it, so that nobody relies on more than there is."""
    for sr_type in ("lvm", "lvmoiscsi"):
        record = dict(EMPTY, SR=five.sr(sr_type, "b"), sm_config={"image-format": "qcow2"})
        with pytest.raises(XenAPI.Failure) as raised:
            five.pool("b").xapi.VDI.create(record)
        assert raised.value.details == ["SR_BACKEND_FAILURE_1200", "", "''", ""]
    assert five.left() == []


@pytest.mark.parametrize("sr_type", TYPES)
def test_unplugged_and_forgotten_there_is_nothing_of_it_and_plugged_again_it_is_all_there(
    five, sr_type
):
    pool, sr = five.pool("b"), five.sr(sr_type, "b")
    uuid = pool.xapi.SR.get_uuid(sr)
    assert pool.xapi.SR.get_type(sr) == sr_type
    kept = pool.xapi.VDI.get_uuid(pool.xapi.VDI.create(dict(EMPTY, SR=sr)))
    (pbd,) = pool.xapi.SR.get_PBDs(sr)
    pool.xapi.PBD.unplug(pbd)
    try:
        left = traces(five.host("b").root, uuid, sr_type, "b")
        with pytest.raises(XenAPI.Failure):
            pool.xapi.SR.scan(sr)
    finally:
        pbd = five.introduce_again(sr_type, "b")
        known = pool.xapi.SR.get_VDIs(five.sr(sr_type, "b"))
        pool.xapi.PBD.plug(pbd)
    assert left == known == []
    sr = five.sr(sr_type, "b")
    pool.xapi.SR.scan(sr)
    assert kept in [pool.xapi.VDI.get_uuid(vdi) for vdi in pool.xapi.SR.get_VDIs(sr)]
    assert pool.xapi.VDI.get_virtual_size(pool.xapi.VDI.get_by_uuid(kept)) == str(SIZE)
    assert int(pool.xapi.SR.get_physical_size(sr)) > 100 * MIB
    pool.xapi.VDI.destroy(pool.xapi.VDI.get_by_uuid(kept))
    assert five.left() == []
