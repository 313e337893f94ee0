# SPDX-License-Identifier: LGPL-2.1-only
"""Changed block tracking in the lab's xapi and sm, in both layouts, as upstream's source has it
(xapi_vdi.ml; VDI.py, FileSR.py, tapdisk-pause), and what MirrorSR does to a disk that is so."""

import contextlib
import os

import pytest
import XenAPI

from sm_host import SIZE, host, io  # noqa: F401
from storage_motion.dom0 import tapctl
from storage_motion.errors import SmFault
from storage_motion.sm import tracking

TRACKED, INACTIVE = 490, 480


@pytest.fixture
def disk(host):
    """A VDI that is not active. Whatever is left in its SR is destroyed."""
    yield host.create(host.fast)
    host.destroy_all()
    assert host.images("fast") == []
    assert host.xapi.VDI.get_all() == []


def log_of(host, vdi):
    return "%s/srs/fast/%s.cbtlog" % (host.root, host.xapi.VDI.get_uuid(vdi))


def field(host, vdi, name):
    """A UUID of another log, or whether it is consistent, as the file has it."""
    with open(log_of(host, vdi), "rb") as log:
        header = log.read(48)
    return {
        "parent": header[:16].hex(),
        "child": header[16:32].hex(),
        "consistent": bool(header[32]),
    }[name]


def as_hex(host, vdi):
    return host.xapi.VDI.get_uuid(vdi).replace("-", "")


def layers(host, vdi):
    (vbd,) = [
        vbd for vbd in host.tapdisks() if host.socket(vdi).endswith("%d.%d" % (vbd.pid, vbd.minor))
    ]
    return [image["driver"]["name"] for image in tapctl.stats(vbd)["images"]]


def is_noted(host, vdi):
    return "log" in layers(host, vdi)


def test_a_disk_is_tracked_from_one_call_to_the_other(host, disk):
    assert not host.xapi.VDI.get_cbt_enabled(disk)
    for _ in range(2):
        host.xapi.VDI.enable_cbt(disk)
        assert host.xapi.VDI.get_cbt_enabled(disk) and os.path.exists(log_of(host, disk))
        assert field(host, disk, "consistent")
    for _ in range(2):
        host.xapi.VDI.disable_cbt(disk)
        assert not host.xapi.VDI.get_cbt_enabled(disk) and not os.path.exists(log_of(host, disk))
    assert host.tags(disk) == {}


def test_one_that_is_active_has_its_tapdisk_told(host, disk):
    host.activate(disk)
    host.xapi.VDI.enable_cbt(disk)
    assert is_noted(host, disk) and not field(host, disk, "consistent")
    io(host.socket(disk), "write -P 1 0 64k", "read -P 1 0 64k")
    host.deactivate(disk)
    assert field(host, disk, "consistent")
    host.activate(disk)
    assert is_noted(host, disk) and not field(host, disk, "consistent")
    host.xapi.VDI.disable_cbt(disk)
    assert not is_noted(host, disk)
    host.deactivate(disk)


def test_one_that_is_read_only_has_not(host, disk):
    host.xapi.VDI.enable_cbt(disk)
    host.call(disk, "vdi_attach", "false", driver="FileSR")
    host.call(disk, "vdi_activate", "false", driver="FileSR")
    assert not is_noted(host, disk)
    host.deactivate(disk)


def test_a_log_that_was_left_open_ends_the_tracking(host, disk):
    """As after a crash of the host: what has changed is not known."""
    host.xapi.VDI.enable_cbt(disk)
    with open(log_of(host, disk), "r+b") as log:
        log.seek(32)
        log.write(b"\0")
    with host.session_of_a_driver(host.fast):
        host.activate(disk)
    assert not host.xapi.VDI.get_cbt_enabled(disk) and not os.path.exists(log_of(host, disk))
    host.deactivate(disk)


def test_a_snapshot_takes_the_log_and_its_data_may_go(host, disk):
    host.activate(disk)
    host.xapi.VDI.enable_cbt(disk)
    snapshot = host.xapi.VDI.snapshot(disk, {})
    assert host.xapi.VDI.get_cbt_enabled(snapshot) and is_noted(host, disk)
    assert field(host, snapshot, "child") == as_hex(host, disk)
    assert field(host, disk, "parent") == as_hex(host, snapshot)
    assert field(host, snapshot, "consistent") and not field(host, disk, "consistent")
    with pytest.raises(XenAPI.Failure, match="OPERATION_NOT_ALLOWED"):
        host.xapi.VDI.disable_cbt(snapshot)
    host.xapi.VDI.data_destroy(snapshot)
    host.xapi.SR.scan(host.fast)
    assert host.xapi.VDI.get_type(snapshot) == "cbt_metadata"
    assert host.xapi.VDI.get_snapshot_of(snapshot) == disk
    assert host.xapi.VDI.get_cbt_enabled(snapshot) and os.path.exists(log_of(host, snapshot))
    for refused in (
        lambda: host.xapi.VDI.snapshot(snapshot, {}),
        lambda: host.xapi.VDI.clone(snapshot, {}),
        lambda: host.xapi.VDI.copy(snapshot, host.big),
        lambda: host.xapi.VDI.resize(snapshot, str(SIZE)),
    ):
        with pytest.raises(XenAPI.Failure, match="VDI_INCOMPATIBLE_TYPE"):
            refused()
    host.xapi.VDI.disable_cbt(disk)
    assert field(host, snapshot, "child") == "0" * 32, "what comes later is not its child"
    host.xapi.VDI.enable_cbt(disk)
    assert field(host, disk, "parent") == "0" * 32
    host.deactivate(disk)


def test_a_snapshot_that_goes_leaves_what_it_knows_to_its_child(host, disk):
    host.xapi.VDI.enable_cbt(disk)
    first, second = host.xapi.VDI.snapshot(disk, {}), host.xapi.VDI.snapshot(disk, {})
    assert field(host, second, "parent") == as_hex(host, first)
    gone = log_of(host, second)
    host.xapi.VDI.destroy(second)
    assert not os.path.exists(gone)
    assert field(host, disk, "parent") == as_hex(host, first)
    assert field(host, first, "child") == as_hex(host, disk)


def test_a_clone_is_not_tracked_and_a_scan_tells_what_is(host, disk):
    host.xapi.VDI.enable_cbt(disk)
    assert not host.xapi.VDI.get_cbt_enabled(host.xapi.VDI.clone(disk, {}))
    with host.session_of_a_driver(host.fast):
        host.xapi.VDI.set_cbt_enabled(disk, False)
    host.xapi.SR.scan(host.fast)
    assert host.xapi.VDI.get_cbt_enabled(disk)
    os.unlink(log_of(host, disk))
    host.xapi.SR.scan(host.fast)
    assert not host.xapi.VDI.get_cbt_enabled(disk)


def test_what_the_record_says_wrongly_is_put_right_by_the_driver(host, disk):
    """A xapi whose database has gone back: it asks the driver, which has nothing to do."""
    host.xapi.VDI.enable_cbt(disk)
    with host.session_of_a_driver(host.fast):
        host.xapi.VDI.set_cbt_enabled(disk, False)
    host.xapi.VDI.enable_cbt(disk)
    assert host.xapi.VDI.get_cbt_enabled(disk)
    os.unlink(log_of(host, disk))
    host.xapi.VDI.enable_cbt(disk)
    assert not os.path.exists(log_of(host, disk)), "the record says that it is tracked"
    host.xapi.VDI.disable_cbt(disk)
    host.xapi.VDI.enable_cbt(disk)
    assert os.path.exists(log_of(host, disk))


def refusal(call, *arguments):
    with pytest.raises(XenAPI.Failure) as refused:
        call(*arguments)
    return refused.value.details


def test_what_xapi_refuses(host, disk):
    host.xapi.VDI.set_on_boot(disk, "reset")
    assert refusal(host.xapi.VDI.enable_cbt, disk) == [
        "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"
    ]
    host.xapi.VDI.set_on_boot(disk, "persist")
    assert refusal(host.xapi.VDI.data_destroy, disk)[0] == "OPERATION_NOT_ALLOWED"
    snapshot = host.xapi.VDI.snapshot(disk, {})
    assert refusal(host.xapi.VDI.data_destroy, snapshot) == ["VDI_NO_CBT_METADATA", snapshot]
    host.xapi.VDI.enable_cbt(disk)
    assert refusal(host.xapi.VDI.set_on_boot, disk, "reset") == ["VDI_CBT_ENABLED", disk]
    record = host.xapi.VDI.get_record(disk)
    other = host.xapi.VDI.create(dict(record, type="metadata"))
    assert refusal(host.xapi.VDI.enable_cbt, other) == ["VDI_INCOMPATIBLE_TYPE", other, "Metadata"]


def test_a_disk_that_somebody_has_paused_is_not_touched(host, disk):
    host.xapi.VDI.add_to_sm_config(disk, "paused", "true")
    with pytest.raises(XenAPI.Failure, match="MAP_DUPLICATE_KEY"):
        host.xapi.VDI.enable_cbt(disk)
    assert not host.xapi.VDI.get_cbt_enabled(disk) and host.tags(disk) == {"paused": "true"}
    host.xapi.VDI.remove_from_sm_config(disk, "paused")


# MirrorSR


@pytest.fixture
def active(host, disk):
    host.activate(disk)
    yield disk
    host.deactivate(disk)


def test_a_disk_that_is_tracked_is_not_mirrored(host, active):
    """Its writes would pass the image by."""
    host.xapi.VDI.enable_cbt(active)
    with pytest.raises(SmFault) as refused:
        host.call(active, "vdi_mirror_start", host.root + "/run/nobody")
    assert refused.value.fault == TRACKED and "SXM_DISK_TRACKED" in str(refused.value)
    assert host.xapi.VDI.get_snapshots(active) == []
    assert "sxm_mirror" not in host.xapi.VDI.get_other_config(active)


def test_its_log_outlives_the_end_of_a_mirror(host, active):
    """Whoever had it tracked beside the mirror: sm believes the file."""
    host.xapi.VDI.enable_cbt(active)
    host.call(active, "vdi_mirror_stop")
    assert is_noted(host, active)


@contextlib.contextmanager
def left_paused(host, vdi, marked=True):
    """As sm leaves it whose xapi ends while it has the disk paused."""
    if marked:
        host.xapi.VDI.add_to_sm_config(vdi, "paused", "true")
    (vbd,) = host.tapdisks()
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    yield
    (vbd,) = host.tapdisks()
    assert not vbd.state & tapctl.PAUSED
    assert "paused" not in host.tags(vdi)


@pytest.mark.parametrize("marked", [True, False])
def test_a_guest_whose_disk_sm_has_left_paused_goes_on(host, active, marked):
    host.xapi.VDI.enable_cbt(active)
    with left_paused(host, active, marked):
        host.call(active, "vdi_go_on")
    assert is_noted(host, active)
    io(host.socket(active), "write -P 1 0 64k")


def test_one_that_goes_on_is_left_alone(host, active):
    (before,) = host.tapdisks()
    host.call(active, "vdi_go_on")
    assert host.tapdisks() == [before]


# The product's calls


def test_tracking_is_ended_and_begun_whatever_sm_has_left(host, active):
    host.xapi.VDI.enable_cbt(active)
    with left_paused(host, active):
        tracking.end(host.session, host.xapi.VDI.get_uuid(active))
    assert not host.xapi.VDI.get_cbt_enabled(active) and not is_noted(host, active)
    with left_paused(host, active):
        assert tracking.begin(host.session, host.xapi.VDI.get_uuid(active)) is None
    assert host.xapi.VDI.get_cbt_enabled(active) and is_noted(host, active)
    assert tracking.begin(host.session, host.xapi.VDI.get_uuid(active)) is None


def test_why_it_was_not_begun_is_told(host, active):
    with host.session_of_a_driver(host.fast):
        host.xapi.VDI.set_is_a_snapshot(active, True)
    try:
        told = tracking.begin(host.session, host.xapi.VDI.get_uuid(active))
    finally:
        with host.session_of_a_driver(host.fast):
            host.xapi.VDI.set_is_a_snapshot(active, False)
    assert told.startswith("OPERATION_NOT_ALLOWED VDI is a snapshot")


def test_it_is_not_begun_of_a_disk_of_which_sm_does_not_know_that_it_is_open(host, active):
    """An older database has lost SM's key: it would pause no tapdisk, and note nothing."""
    key = "host_" + host.ref
    host.xapi.VDI.remove_from_sm_config(active, key)
    try:
        told = tracking.begin(host.session, host.xapi.VDI.get_uuid(active))
    finally:
        host.xapi.VDI.add_to_sm_config(active, key, "RW")
    assert "does not know that it is open" in told
    assert not host.xapi.VDI.get_cbt_enabled(active)
