# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: SRs, PBDs and VDIs through an SM driver, on the right host, with the right
arguments."""

import http.client
import os
import threading
import xmlrpc.client

import pytest

from lab.http_client import UnixConnection
from tests.eventually import eventually
from xapi_fixture import LabPool, failure_of, make_sr, vbd_record, vdi_record, vm_record

PATIENCE = 120.0  # seconds


@pytest.fixture(scope="module")
def pool():
    pool = LabPool(hosts=2)
    yield pool
    pool.stop()


@pytest.fixture
def x(pool):
    return pool.master.remote().xenapi


@pytest.fixture
def sr(pool, x):
    return make_sr(x, pool.master.ref(x))


def test_an_sr_from_creation_to_destruction(pool, x):
    host = pool.master.ref(x)
    sr = make_sr(x, host, "/somewhere")
    (pbd,) = x.SR.get_PBDs(sr)
    assert x.PBD.get_currently_attached(pbd) and x.PBD.get_device_config(pbd) == {
        "location": "/somewhere"
    }
    created = pool.master.driver_calls("sr_create")[-1]
    assert created["args"] == ["0"] and created["device_config"] == {
        "location": "/somewhere",
        "SRmaster": "true",
    }
    assert (
        created["sr_ref"] == sr
        and created["sr_uuid"] == x.SR.get_uuid(sr)
        and created["host_ref"] == host
    )
    x.SR.scan(sr)
    assert x.SR.get_physical_size(sr) == str(1 << 40)
    assert failure_of(x.SR.destroy, sr) == ["SR_HAS_PBD", sr]
    assert failure_of(x.PBD.destroy, pbd)[0] == "OPERATION_NOT_ALLOWED"
    x.PBD.unplug(pbd)
    assert failure_of(x.SR.scan, sr) == ["SR_HAS_NO_PBDS", sr]
    x.SR.destroy(sr)
    assert sr not in x.SR.get_all() and pbd not in x.PBD.get_all()


def test_an_sr_that_cannot_be_made_leaves_nothing(pool, x):
    before = x.SR.get_all(), x.PBD.get_all()
    failure = failure_of(make_sr, x, pool.master.ref(x), "bad")
    assert failure[:3] == ["SR_BACKEND_FAILURE_140", "", "the location is bad"]
    assert (x.SR.get_all(), x.PBD.get_all()) == before
    assert failure_of(
        x.SR.create, pool.master.ref(x), {}, "0", "", "", "nosuch", "user", False
    ) == ["SR_UNKNOWN_DRIVER", "nosuch"]


def test_a_vdi_from_creation_to_destruction(pool, x, sr):
    vdi = x.VDI.create(
        vdi_record(sr, other_config={"a": "b"}, sm_config={"image-format": "qcow2"}, tags=["t"])
    )
    record = x.VDI.get_record(vdi)
    assert (
        record["name_label"],
        record["virtual_size"],
        record["other_config"],
        record["tags"],
    ) == ("disk", str(1 << 20), {"a": "b"}, ["t"])
    assert (
        record["sm_config"] == {"image-format": "qcow2"}
        and record["managed"]
        and record["SR"] == sr
    )
    assert x.SR.get_VDIs(sr) == [vdi]
    created = pool.master.driver_calls("vdi_create")[-1]
    assert created["args"] == [
        str(1 << 20),
        "disk",
        "",
        "",
        "false",
        "19700101T00:00:00Z",
        "",
        "false",
    ]
    assert created["vdi_type"] == "user" and "vdi_ref" not in created
    x.VDI.resize(vdi, str(1 << 21))
    assert x.VDI.get_virtual_size(vdi) == str(1 << 21)
    x.VDI.destroy(vdi)
    assert vdi not in x.VDI.get_all() and x.SR.get_VDIs(sr) == []


def test_missing_and_wrong_fields_of_a_record(x, sr):
    record = vdi_record(sr)
    del record["sharable"]
    assert "sharable" in failure_of(x.VDI.create, record)[1]
    assert failure_of(x.VDI.create, vdi_record(sr, type="nonsense")) == [
        "INTERNAL_ERROR",
        'Failure("Unknown tag/contents")',
    ]
    assert failure_of(x.VDI.create, vdi_record("OpaqueRef:no"))[:2] == ["HANDLE_INVALID", "SR"]


def test_a_drivers_fault(x, sr):
    failure = failure_of(x.VDI.create, vdi_record(sr, name_label="fail"))
    assert (
        failure[0] == "SR_BACKEND_FAILURE_46"
        and failure[2] == "no room"
        and "details" in failure[3]
    )


def test_snapshot_and_clone(pool, x, sr):
    vdi = x.VDI.create(vdi_record(sr, name_label="original", other_config={"k": "v"}))
    snapshot = x.VDI.snapshot(vdi, {"mirror": "nbd:/socket"})
    record = x.VDI.get_record(snapshot)
    assert (
        record["is_a_snapshot"]
        and record["snapshot_of"] == vdi
        and record["name_label"] == "original"
    )
    assert (
        record["other_config"] == {"k": "v"}
        and record["snapshot_time"].value > "20250101T00:00:00Z"
    )
    assert x.VDI.get_snapshots(vdi) == [snapshot]
    assert pool.master.driver_calls("vdi_snapshot")[-1]["driver_params"] == {
        "mirror": "nbd:/socket"
    }
    assert pool.master.driver_calls("vdi_snapshot")[-1]["vdi_location"] == x.VDI.get_location(vdi)
    clone = x.VDI.clone(vdi)
    assert not x.VDI.get_is_a_snapshot(clone)
    task = x.Async.VDI.snapshot(vdi)
    eventually(lambda: x.task.get_status(task) != "pending", "the task's end", PATIENCE)
    result = x.task.get_result(task)
    assert result == "<value>%s</value>" % x.VDI.get_snapshots(vdi)[-1]


def test_a_vdi_that_is_not_managed(pool, x, sr):
    """xapi_vdi.ml, xapi_vbd.ml and xapi_vbd_helpers.ml: it may have a VBD, which may not be
    attached; and it may be forgotten."""
    vdi = x.VDI.create(vdi_record(sr))
    as_a_driver(pool, sr).VDI.set_managed(vdi, False)
    for refuse in (
        lambda: x.VDI.snapshot(vdi),
        lambda: x.VDI.clone(vdi),
        lambda: x.VDI.copy(vdi, sr),
        lambda: x.VDI.copy(vdi),
        lambda: x.VDI.resize(vdi, str(1 << 21)),
        lambda: x.VDI.destroy(vdi),
    ):
        assert failure_of(refuse) == ["VDI_NOT_MANAGED", vdi]
    vm = x.VM.create(vm_record())
    vbd = x.VBD.create(vbd_record(vm, vdi))
    for refuse in (
        lambda: x.VM.start(vm, False, False),
        lambda: x.VM.start_on(vm, pool.master.ref(x), False, False),
        lambda: x.VBD.assert_attachable(vbd),
    ):
        assert failure_of(refuse) == ["VDI_NOT_MANAGED", vbd]
    cd = x.VBD.create(
        dict(vbd_record(vm, "OpaqueRef:NULL"), userdevice="3", type="CD", mode="RO", empty=True)
    )
    assert failure_of(x.VBD.insert, cd, vdi) == ["VDI_NOT_MANAGED", vdi]
    assert x.VM.get_power_state(vm) == "Halted" and x.VBD.get_empty(cd)
    x.SR.scan(sr)
    assert not x.VDI.get_managed(vdi), "a scan says nothing of it"
    x.VBD.destroy(vbd)
    x.VDI.forget(vdi)
    x.VM.destroy(vm)
    assert vdi not in x.VDI.get_all()


def as_a_driver(pool, sr):
    """XenAPI with a session that may do what xapi's own for a driver of this SR may."""
    session = pool.master.local()
    session.xenapi.session.add_to_other_config(session._session, "_sm_session", sr)
    return session.xenapi


def test_what_only_sm_may_do(pool, x, sr):
    vdi, other = x.VDI.create(vdi_record(sr)), make_sr(x, pool.master.ref(x), "/another")
    for api in (x, pool.master.local().xenapi, as_a_driver(pool, other)):
        for call, about, value in (
            (api.VDI.set_managed, vdi, False),
            (api.VDI.set_virtual_size, vdi, "1"),
            (api.VDI.set_snapshot_of, vdi, vdi),
            (api.SR.set_physical_utilisation, sr, "1"),
        ):
            assert failure_of(call, about, value) == ["PERMISSION_DENIED", ""]
        assert failure_of(api.VDI.db_forget, vdi) == ["PERMISSION_DENIED", ""]
        assert failure_of(
            api.VDI.db_introduce, "", "n", "d", sr, "user", False, True, {}, "loc"
        ) == ["PERMISSION_DENIED", ""]
    x.VDI.set_name_label(vdi, "anybody may")
    assert x.VDI.get_managed(vdi)


def test_what_sm_does_to_vdi_objects(pool, x, sr):
    x = as_a_driver(pool, sr)
    epoch = xmlrpc.client.DateTime("19700101T00:00:00Z")
    new = x.VDI.db_introduce(
        "11111111-2222-3333-4444-555555555555",
        "n",
        "d",
        sr,
        "user",
        False,
        True,
        {},
        "loc",
        {},
        {"a": "1"},
        True,
        "1024",
        "512",
        "OpaqueRef:NULL",
        True,
        epoch,
        "",
        False,
    )
    record = x.VDI.get_record(new)
    assert (
        record["read_only"]
        and record["is_a_snapshot"]
        and record["snapshot_of"] == "OpaqueRef:NULL"
        and record["location"] == "loc"
    )
    for location, refused in (
        ("loc", ["LOCATION_NOT_UNIQUE", sr, "loc"]),
        (
            "other",
            [
                "DB_UNIQUENESS_CONSTRAINT_VIOLATION",
                "VDI",
                "uuid",
                "11111111-2222-3333-4444-555555555555",
            ],
        ),
    ):
        assert (
            failure_of(
                x.VDI.db_introduce,
                "11111111-2222-3333-4444-555555555555",
                "renamed",
                "d",
                sr,
                "user",
                False,
                True,
                {},
                location,
                {},
                {},
            )
            == refused
        )
    assert x.VDI.get_name_label(new) == "n" and x.VDI.get_managed(new)
    x.VDI.add_to_sm_config(new, "paused", "true")
    assert failure_of(x.VDI.add_to_sm_config, new, "paused", "true")[0] == "MAP_DUPLICATE_KEY"
    x.VDI.remove_from_sm_config(new, "paused")
    x.VDI.set_sm_config(new, {"vhd-parent": "p"})
    x.VDI.set_managed(new, False)
    x.VDI.set_read_only(new, False)
    x.VDI.set_virtual_size(new, "2048")
    x.VDI.set_physical_utilisation(new, "99")
    x.VDI.set_cbt_enabled(new, False)
    assert x.VDI.get_all_records_where('field "SR" = "%s"' % sr) == {new: x.VDI.get_record(new)}
    x.SR.set_virtual_allocation(sr, "5")
    x.SR.set_physical_utilisation(sr, "6")
    x.SR.add_to_sm_config(sr, "k", "v")
    assert x.SR.get_virtual_allocation(sr) == "5"
    x.VDI.db_forget(new)
    assert new not in x.VDI.get_all()


def test_blocks_are_not_tracked_where_the_driver_cannot(pool, x, sr):
    vdi = x.VDI.create(vdi_record(sr))
    for call in (x.VDI.enable_cbt, x.VDI.disable_cbt, x.VDI.data_destroy):
        assert failure_of(call, vdi) == ["SR_OPERATION_NOT_SUPPORTED", sr]
    assert x.VDI.get_current_operations(vdi) == x.SR.get_current_operations(sr) == {}


def test_a_vdi_in_use_stays(x, sr):
    vdi = x.VDI.create(vdi_record(sr))
    vm = x.VM.create(vm_record())
    vbd = x.VBD.create(vbd_record(vm, vdi))
    assert x.VDI.get_VBDs(vdi) == [vbd] and x.VBD.get_userdevice(vbd) == "0"
    x.VDI.destroy(vdi)
    assert vbd not in x.VBD.get_all()


def test_one_operation_at_a_time_on_a_vdi(pool, x, sr):
    """The others wait, as on a real xapi."""
    vdi = x.VDI.create(vdi_record(sr))
    made, most = [], []

    def snapshot():
        session = pool.master.remote().xenapi
        made.append(session.VDI.snapshot(vdi))
        most.append(len(session.VDI.get_current_operations(vdi)))

    threads = [threading.Thread(target=snapshot) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 3 and max(most) <= 1
    assert x.VDI.get_current_operations(vdi) == {}


def test_an_sr_is_scanned_while_nothing_else_is_done_with_it(pool, x, sr):
    """And who waits for that may be cancelled (xapi_sr_operations.ml, helpers.ml)."""
    slow = pool.master.root + "/disks-are-slow"
    open(slow, "w").close()
    try:
        made = x.Async.VDI.create(vdi_record(sr))
        eventually(
            lambda: list(x.SR.get_current_operations(sr).values()) == ["vdi_create"],
            "the disk is being made",
            PATIENCE,
        )
        cancelled, waits = x.Async.SR.scan(sr), x.Async.SR.scan(sr)
        x.task.cancel(cancelled)
        eventually(lambda: x.task.get_status(cancelled) == "cancelled", "it is cancelled", PATIENCE)
        assert x.task.get_error_info(cancelled) == ["TASK_CANCELLED", cancelled]
        assert list(x.SR.get_current_operations(sr).values()) == ["vdi_create"]
        assert x.task.get_status(made) == x.task.get_status(waits) == "pending"
    finally:
        os.unlink(slow)
    eventually(lambda: x.task.get_status(waits) == "success", "it has been scanned", PATIENCE)
    assert x.task.get_status(made) == "success" and x.SR.get_current_operations(sr) == {}


def test_operations_run_where_the_sr_is(pool, x):
    slave = pool.hosts[1]
    local = make_sr(x, slave.ref(x), "/of-the-slave")
    vdi = x.VDI.create(vdi_record(local))
    assert slave.driver_calls("vdi_create")[-1]["sr_ref"] == local
    assert slave.driver_calls("vdi_create")[-1]["device_config"]["SRmaster"] == "true"
    x.VDI.destroy(vdi)
    shared = make_sr(x, pool.master.ref(x), "/of-both", shared=True)
    assert len(x.SR.get_PBDs(shared)) == 2
    assert slave.driver_calls("sr_attach")[-1]["device_config"] == {
        "location": "/of-both",
        "SRmaster": "false",
    }
    x.VDI.create(vdi_record(shared))
    assert pool.master.driver_calls("vdi_create")[-1]["sr_ref"] == shared


def ask_storage(host, method, **members):
    """POST /services/SM as xenopsd does."""
    connection = UnixConnection(host.root + "/var/lib/xcp/xapi", 30)
    connection.request(
        "POST",
        "/services/SM",
        xmlrpc.client.dumps((members,), method),
        {"Content-Type": "text/xml"},
    )
    body = connection.getresponse().read()
    connection.close()
    return xmlrpc.client.loads(body)[0][0]


@pytest.mark.parametrize("number", [0, 1])
def test_the_storage_service_of_either_host(pool, x, number):
    host = pool.hosts[number]
    sr = make_sr(x, host.ref(x), "/services")
    vdi = x.VDI.create(vdi_record(sr))
    where = {
        "dp": "vbd/3/xvda",
        "sr": x.SR.get_uuid(sr),
        "vdi": x.VDI.get_location(vdi),
        "rw": True,
    }
    attached = ask_storage(host, "VDI.attach", **where)["Value"]
    assert attached["params_nbd"].startswith("nbd:unix:" + host.root)
    activated = ask_storage(host, "VDI.activate", **where)["Value"]
    assert activated == {"socket": host.root + "/run/blktap-control/nbd1.0"}
    assert host.driver_calls("vdi_activate")[-1]["args"] == ["true"]
    ask_storage(host, "VDI.deactivate", **where)
    ask_storage(host, "VDI.detach", **where)
    missing = ask_storage(
        host, "VDI.attach", dp="vbd/3/xvdb", sr=where["sr"], vdi="nothing", rw=True
    )
    assert missing["Status"] == "Failure" and "No_VDI" in missing["ErrorDescription"][1]
    with pytest.raises(xmlrpc.client.Fault):
        ask_storage(host, "VDI.explode", **where)


def test_the_storage_service_is_for_the_unix_socket_alone(pool):
    connection = http.client.HTTPConnection(pool.master.address, pool.master.http_port, timeout=60)
    connection.request("POST", "/services/SM", b"", {"X-Lab-Host": pool.master.uuid})
    assert connection.getresponse().status == 404
    connection.close()


def test_a_slave_hands_on_what_is_asked_locally(pool, x):
    slave = pool.hosts[1]
    session = slave.local()
    local = session.xenapi
    assert set(local.host.get_all()) == set(x.host.get_all())
    assert local.session.get_this_host(session.handle) == slave.ref(x)
    assert failure_of(slave.remote) == ["HOST_IS_SLAVE", pool.master.address]
    assert local.host.call_plugin(slave.ref(x), "probe", "echo", {}) == "[] at %s" % slave.root
    assert (
        local.host.call_plugin(pool.master.ref(x), "probe", "echo", {})
        == "[] at %s" % pool.master.root
    )
    batch = getattr(local.event, "from")(["host"], "", 1.0)
    assert len(batch["events"]) == 2
    assert os.path.exists(slave.root + "/run/xapi.ready")
