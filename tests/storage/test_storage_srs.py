"""SRs on a real kernel's storage: plugged, unplugged, scanned and forgotten; of type `mirror`."""
import glob
import os
import subprocess

import pytest
import XenAPI

from five import MIB, SIZE, TYPES, logs, migrate, wait_for_writes
from lab.pools import volumes
from lab.pools.daemons import environment
from lab.storage_guest import services

pytestmark = pytest.mark.timeout(2400)


def printed(*command):
    """What a program of the guest prints, whatever its exit status."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120).stdout


def traces(root, sr_uuid, sr_type, side):
    """What the kernel has of an SR while it is plugged, and must not have afterwards."""
    found = [line.split()[1] for line in open("/proc/self/mounts") if sr_uuid in line]
    found += [path for path, _, active in volumes.of(sr_uuid).values() if active]
    if sr_type == "lvmoiscsi":
        found += [line for line in printed("iscsiadm", "-m", "session").splitlines() if services.IQN % side in line.split()]
    if sr_type == "ext":
        found += glob.glob("/dev/XSLocalEXT-%s/*" % sr_uuid)
    return found


@pytest.mark.parametrize("sr_type", TYPES)
def test_unplugged_and_forgotten_there_is_nothing_of_it_and_plugged_again_it_is_all_there(five, sr_type):
    pool, sr = five.pool("b"), five.sr(sr_type, "b")
    uuid = pool.xapi.SR.get_uuid(sr)
    assert pool.xapi.SR.get_type(sr) == sr_type
    kept = pool.xapi.VDI.get_uuid(pool.xapi.VDI.create({
        "SR": sr, "virtual_size": str(SIZE), "type": "user", "name_label": "kept", "name_description": "", "sharable": False,
        "read_only": False, "other_config": {}, "tags": [], "xenstore_data": {}, "sm_config": {}}))
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


def test_an_sr_of_type_mirror_is_its_base_and_its_disks_move(five):
    pool, host = five.pool("c"), five.host("c")
    (driver,) = pool.xapi.SM.get_all_records_where('field "type" = "mirror"').values()
    assert "VDI_MIRROR" in driver["features"] or "VDI_MIRROR" in driver["capabilities"]
    config = dict(services.device_config("ext", "c"), type="ext")
    made = subprocess.run([host.root + "/usr/bin/xe", "sr-create", "type=mirror", "name-label=mirrored", "host-uuid=" + host.uuid]
                          + ["device-config:%s=%s" % item for item in sorted(config.items())], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=600, env=environment(host.root))
    assert made.returncode == 0, made.stderr
    uuid = made.stdout.strip()
    sr = pool.xapi.SR.get_by_uuid(uuid)
    assert pool.xapi.SR.get_type(sr) == "mirror"
    assert os.path.ismount("%s/run/sr-mount/%s" % (host.root, uuid))
    with five.disposable_sr("c", sr), five.vm([sr], "c") as vm:
        status, answer, said = migrate(host, five.arguments(vm, [five.uuid("lvm", "b")], side="c"))
        assert status == 0, said + logs(host)
        assert answer["state"] == "succeeded"
        wait_for_writes(five.host("b").guest(vm), 5)
        assert five.host("b").guest(vm).check()["missing"] == 0
    assert five.left() == []
