# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: transports, sessions, errors, accessors, the database on disk, events, tasks,
plugins."""

import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time
import urllib.request
import xmlrpc.client

import pytest
import XenAPI

from tests.eventually import eventually
from xapi_fixture import PASSWORD, LabPool, failure_of


@pytest.fixture(scope="module")
def pool():
    pool = LabPool()
    yield pool
    pool.stop()


@pytest.fixture
def x(pool):
    session = pool.master.remote()
    yield session.xenapi
    session.xenapi.session.logout()


def test_the_stock_client_works_over_every_transport(pool):
    for session in (
        XenAPI.Session(pool.master.url),
        XenAPI.Session(pool.master.https_url, ignore_ssl=True),
        XenAPI.Session(pool.master.url + "/RPC2"),
    ):
        session.login_with_password("root", PASSWORD, "1.0", "tests")
        assert session.xenapi.host.get_uuid(session.xenapi.host.get_all()[0]) == pool.master.uuid
        assert session.API_version == "2.23"
        session.xenapi.session.logout()
    local = pool.master.local()
    assert local.xenapi.pool.get_all_records()


def test_a_host_tells_since_when_its_xapi_runs(x):
    (host,) = x.host.get_all()
    assert abs(float(x.host.get_other_config(host)["agent_start_time"]) - time.time()) < 600


def test_errors_have_xapis_codes(pool, x):
    session = XenAPI.Session(pool.master.url)
    assert (
        failure_of(session.login_with_password, "root", "wrong", "1.0", "tests")[0]
        == "SESSION_AUTHENTICATION_FAILED"
    )
    assert failure_of(x.VM.no_such_call) == ["MESSAGE_METHOD_UNKNOWN", "VM.no_such_call"]
    assert failure_of(x.VM.get_uuid) == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        "VM.get_uuid",
        "1",
        "0",
    ]
    assert failure_of(x.VM.get_uuid, "OpaqueRef:no") == ["HANDLE_INVALID", "VM", "OpaqueRef:no"]
    assert failure_of(x.VM.get_by_uuid, "no") == ["UUID_INVALID", "VM", "no"]
    assert failure_of(x.pool.set_ha_allow_overcommit, x.pool.get_all()[0], "maybe") == [
        "INTERNAL_ERROR",
        "Failure(\"Expected bool, got 'S(maybe)'\")",
    ]
    assert failure_of(x.host.set_uuid, x.host.get_all()[0], "x")[0] == "MESSAGE_METHOD_UNKNOWN"
    proxy = xmlrpc.client.ServerProxy(pool.master.url)
    assert proxy.VM.get_all("OpaqueRef:gone")["ErrorDescription"] == [
        "SESSION_INVALID",
        "OpaqueRef:gone",
    ]


def test_json_rpc_in_both_versions(pool):
    def call(body):
        request = urllib.request.Request(pool.master.url + "/jsonrpc", json.dumps(body).encode())
        return json.load(urllib.request.urlopen(request))

    login = ["root", PASSWORD, "1.0", "tests"]
    second = call(
        {"jsonrpc": "2.0", "id": 1, "method": "session.login_with_password", "params": login}
    )
    session = second["result"]
    hosts = call({"id": "a", "method": "host.get_all_records", "params": [session]})
    (record,) = hosts["result"].values()
    assert hosts["error"] is None and record["API_version_major"] == 2 and record["enabled"] is True
    bad = call({"jsonrpc": "2.0", "id": 2, "method": "VM.get_by_uuid", "params": [session, "no"]})
    assert (
        bad["error"] == {"code": 1, "message": "UUID_INVALID", "data": ["VM", "no"]}
        and "result" not in bad
    )
    assert call({"id": 3, "method": "VM.nothing", "params": [session]})["error"] == [
        "MESSAGE_METHOD_UNKNOWN",
        "VM.nothing",
    ]


def test_what_is_not_a_call_is_refused(pool):
    for path, body in (
        ("/", b"<not xml"),
        ("/jsonrpc", b"[]"),
        ("/", b'<!DOCTYPE a [<!ENTITY b "c">]><methodCall/>'),
    ):
        connection = http.client.HTTPConnection(
            pool.master.address, pool.master.http_port, timeout=60
        )
        connection.request("POST", path, body)
        assert connection.getresponse().status == 400
        connection.close()
    connection = http.client.HTTPConnection(pool.master.address, pool.master.http_port, timeout=60)
    connection.request("POST", "/internal", b"{}")
    assert connection.getresponse().status == 403
    connection.close()


def test_a_tls_client_that_says_nothing_holds_nobody_up(pool):
    with socket.create_connection((pool.master.address, pool.master.https_port)):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        session = XenAPI.Session(pool.master.https_url, ignore_ssl=True)
        session.login_with_password("root", PASSWORD, "1.0", "tests")


def test_an_answer_over_tls_is_not_held_back(pool):
    """Nagle's algorithm and the client's delayed acknowledgement make 40 ms of each; the real one's
    stunnel is told TCP_NODELAY (xapi_stunnel_server.ml)."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        pool.master.address, pool.master.https_port, timeout=60, context=context
    )
    body = xmlrpc.client.dumps((), "session.get_all")
    taken = []
    for _ in range(20):
        begun = time.monotonic()
        connection.request("POST", "/", body)
        connection.getresponse().read()
        taken.append(time.monotonic() - begun)
    connection.close()
    assert min(taken) < 0.03, "even the quickest"


def test_records_and_maps(x):
    host = x.host.get_all()[0]
    record = x.host.get_record(host)
    assert (
        record["software_version"]["product_brand"] == "XCP-ng"
        and record["API_version_major"] == "2"
    )
    assert set(x.host.get_all_records()) == {host}
    x.host.add_to_other_config(host, "key", "value")
    assert failure_of(x.host.add_to_other_config, host, "key", "value") == [
        "MAP_DUPLICATE_KEY",
        "host",
        "other_config",
        host,
        "key",
    ]
    x.host.remove_from_other_config(host, "key")
    x.host.remove_from_other_config(host, "key")
    x.host.set_tags(host, ["a"])
    x.host.add_tags(host, "b")
    x.host.add_tags(host, "b")
    assert x.host.get_tags(host) == ["a", "b"]
    x.host.remove_tags(host, "a")
    assert x.host.get_tags(host) == ["b"]
    pif = x.PIF.get_record(x.host.get_PIFs(host)[0])
    assert pif["IP"] == record["address"] and pif["management"] is True
    assert x.network.get_PIFs(pif["network"]) == x.host.get_PIFs(host)
    assert x.host.get_servertime(host).value.endswith("Z")


def test_expressions(x):
    def found(expression):
        return [record["type"] for record in x.SM.get_all_records_where(expression).values()]

    assert found('field "type" = "tiny"') == ["tiny"]
    assert found('field "type"="tiny" and field "name__label"="Tiny"') == ["tiny"]
    assert found('not (field "type" = "tiny")') == []
    assert found('field "type" = "x" or true') == ["tiny"]
    assert found('field "type" = "tiny" andfield "name_label" = "Tiny"') == ["tiny"], "as sm has it"
    assert found("true and (false or not false)") == ["tiny"]
    assert found("true or false and false") == [], "`and` and `or` bind alike, from the left"
    assert found("not false and false") == ["tiny"], "all of what follows is negated"
    assert found("true and not true or true") == []
    assert failure_of(x.SM.get_all_records_where, "true\u00a0")[0] == "INTERNAL_ERROR", "no space"
    (pif,) = x.PIF.get_all_records_where('field "management" = "true"').values()
    assert x.network.get_all_records_where(
        'field "uuid" = "%s"' % x.network.get_uuid(pif["network"])
    )
    assert failure_of(x.SM.get_all_records_where, 'field "type" =')[0] == "INTERNAL_ERROR"
    assert failure_of(x.SM.get_all_records_where, "field 'type' = 'tiny'")[0] == "INTERNAL_ERROR"
    assert failure_of(x.SM.get_all_records_where, 'field "nothing" = "x"')[0] == "INTERNAL_ERROR"


def test_drivers_that_answer_have_an_sm_object(x):
    (record,) = x.SM.get_all_records().values()
    assert record["driver_filename"] == "/opt/xensource/sm/TinySR" and record["features"] == {
        "VDI_CREATE": "1",
        "VDI_SNAPSHOT": "2",
    }
    assert x.SR.get_supported_types() == ["tiny"]


def test_plugins(pool, x):
    host = pool.master.ref(x)
    assert (
        x.host.call_plugin(host, "probe", "echo", {"a": "<b>"})
        == "[('a', '<b>')] at %s" % pool.master.root
    )
    assert x.host.call_plugin(host, "probe", "session", {}).startswith("OpaqueRef:")
    for fn, wanted in (
        ("refuse", ["SXM_BAD_ARGUMENTS", "vm: no such VM"]),
        ("exit", ["XENAPI_PLUGIN_FAILURE", "non-zero exit", "out\n", "err"]),
        ("signal", ["XENAPI_PLUGIN_FAILURE", "signal: SIGKILL", "", ""]),
        ("fault", ["XENAPI_PLUGIN_FAILURE", "fault", "7", "a fault"]),
    ):
        assert failure_of(x.host.call_plugin, host, "probe", fn, {}) == wanted
    assert failure_of(x.host.call_plugin, host, "probe", "garbage", {})[:3] == [
        "XENAPI_PLUGIN_FAILURE",
        "failed to parse plugin output",
        "this is no XML\n",
    ]
    assert failure_of(x.host.call_plugin, host, "probe", "number", {})[:2] == [
        "XENAPI_PLUGIN_FAILURE",
        "unexpected XMLRPC result",
    ]
    for name in ("none", "../plugins/probe"):
        assert failure_of(x.host.call_plugin, host, name, "echo", {}) == [
            "XENAPI_MISSING_PLUGIN",
            name,
        ]
    before = time.monotonic()
    assert x.host.call_plugin(host, "probe", "daemon", {}) == "left one behind"
    assert time.monotonic() - before < 15


def test_async_calls_and_tasks(pool, x):
    host = pool.master.ref(x)
    xx = x
    task = xx.Async.host.call_plugin(host, "probe", "echo", {})
    eventually(lambda: x.task.get_status(task) != "pending", "the task's end")
    record = x.task.get_record(task)
    assert (
        record["status"] == "success"
        and record["result"] == "<value>[] at %s</value>" % pool.master.root
    )
    assert record["progress"] == 1.0
    x.task.destroy(task)
    assert failure_of(x.task.get_status, task)[0] == "HANDLE_INVALID"
    task = xx.Async.host.call_plugin(host, "probe", "refuse", {})
    eventually(lambda: x.task.get_status(task) == "failure", "it fails")
    assert x.task.get_error_info(task) == ["SXM_BAD_ARGUMENTS", "vm: no such VM"]
    x.task.destroy(task)
    assert failure_of(xx.Async.VM.get_uuid, "x") == [
        "Fault",
        "No async mode for this operation (rpc: VM.get_uuid)",
    ]


def test_tasks_of_clients(x):
    task = x.task.create("move", "a move")
    x.task.set_progress(task, 0.5)
    x.task.add_to_other_config(task, "applies_to", "OpaqueRef:vm")
    assert x.task.get_allowed_operations(task) == []
    x.task.cancel(task)
    assert (
        "cancel" in x.task.get_current_operations(task).values()
        and x.task.get_status(task) == "pending"
    )
    x.task.set_result(task, "done")
    x.task.set_error_info(task, ["A", "b"])
    x.task.set_status(task, "cancelled")
    assert x.task.get_record(task)["status"] == "cancelled"
    x.task.destroy(task)
    assert task not in x.task.get_all()


def test_events(x):
    first = getattr(x.event, "from")(["network", "PIF"], "", 1.0)
    assert {event["class"] for event in first["events"]} == {"network", "pif"}
    assert first["valid_ref_counts"]["network"] == 1 and first["valid_ref_counts"]["pbd"] == len(
        x.PBD.get_all()
    )
    quiet = getattr(x.event, "from")(["network"], first["token"], 0.2)
    assert quiet["events"] == []
    network = x.network.create({"name_label": "n", "name_description": "", "other_config": {}})
    (made,) = getattr(x.event, "from")(["network/" + network], quiet["token"], 5.0)["events"]
    assert (made["operation"], made["ref"], made["snapshot"]["name_label"]) == ("add", network, "n")
    token = getattr(x.event, "from")(["network"], quiet["token"], 5.0)["token"]
    x.network.set_name_label(network, "m")
    x.network.destroy(network)
    (gone,) = getattr(x.event, "from")(["*"], token, 5.0)["events"]
    assert gone["operation"] == "del" and "snapshot" not in gone
    assert failure_of(getattr(x.event, "from"), ["*"], "rubbish", 1.0) == [
        "EVENT_FROM_TOKEN_PARSE_FAILURE",
        "rubbish",
    ]


def test_an_event_wakes_who_waits(pool, x):
    token = getattr(x.event, "from")(["task"], "", 0.0)["token"]
    timer = threading.Timer(0.3, lambda: pool.master.remote().xenapi.task.create("t", ""))
    timer.start()
    before = time.monotonic()
    batch = getattr(x.event, "from")(["task"], token, 20.0)
    assert [event["operation"] for event in batch["events"]] == [
        "add"
    ] and 0.2 < time.monotonic() - before < 10
    timer.join()
    x.task.set_status(batch["events"][0]["ref"], "success")
    x.task.destroy(batch["events"][0]["ref"])


def test_messages(x):
    pool_uuid = x.pool.get_uuid(x.pool.get_all()[0])
    message = x.message.create("DONE", 3, "Pool", pool_uuid, "body")
    assert x.message.get_all_records()[message]["priority"] == "3"
    assert list(x.message.get("Pool", pool_uuid, xmlrpc.client.DateTime("19700101T00:00:00Z"))) == [
        message
    ]
    x.message.destroy(message)
    assert failure_of(x.message.create, "DONE", 3, "VM", "none", "")[0] == "UUID_INVALID"


def test_a_xapi_ends_when_it_is_told_to_and_logs_no_secret():
    pool = LabPool()
    try:
        x = pool.master.remote().xenapi
        pool.master.stop(signal.SIGKILL)
        pool.master.start()
        pool.master.wait_ready()
        x = pool.master.remote().xenapi
        assert len(x.host.get_all()) == 1 and len(x.PIF.get_all()) == 1 and len(x.SM.get_all()) == 1
        log = open(pool.master.root + "/var/log/xensource.log").read()
        assert PASSWORD not in log and pool.secret not in log
    finally:
        started = time.monotonic()
        pool.stop()
    assert pool.master.process.returncode == 0 and time.monotonic() - started < 10
    assert not os.path.exists(pool.directory)
