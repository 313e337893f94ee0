# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi against the real one: its data model (docs/facts/xapi-datamodel.json), and what it
answered (docs/facts/recorded)."""

import json
import time
import urllib.request
import xmlrpc.client

import pytest

import recorded
from lab.xapi import api, calls, model, schema, tables  # noqa: F401
from xapi_fixture import (
    LabPool,
    TinyXenopsd,
    failure_of,
    make_sr,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)

# --- without a xapi: classes, fields, messages


def differences(registry, classes):
    """How calls and classes differ from xapi's data model and its hidden messages, a line each."""
    wrong = ["xapi has no %s" % name for name in registry if calls.modelled(name) is None]
    wrong += ["%s is not answered" % name for name in model.names() if name not in registry]
    for name, call in registry.items():
        wanted = calls.modelled(name) or ()
        given = [
            (parameter.name, parameter.type, parameter.optional) for parameter in call.parameters
        ]
        if wanted != () and given != [
            (parameter.name, parameter.type, parameter.optional) for parameter in wanted
        ]:
            wrong.append("%s has other parameters" % name)
        if model.message(name) is not None and call.needs_session != model.needs_session(name):
            wrong.append("%s differs in its session" % name)
    for class_name, fields in classes.items():
        described = model.MODEL.get(class_name, {"fields": {}})["fields"]
        wrong += ["%s.%s" % (class_name, name) for name in set(fields) ^ set(described)]
        for name in set(fields) & set(described):
            type_text, qualifier, on_disk, default = described[name]
            field = fields[name]
            same = (
                field.type == model.parse_type(type_text),
                field.access == {"RW": "RW", "RO/constructor": "ST", "RO/runtime": "DY"}[qualifier],
                field.required == (default == "REQ"),
                field.kept == (on_disk and model.MODEL[class_name]["persisted"] == "yes"),
                written(field.default, field.type.kind) in (default, "D:date")
                or default in ("REQ", "D:ref:")
                or _counted(field.default, default),
            )
            wrong += ["%s.%s" % (class_name, name) for agrees in same if not agrees]
    return wrong


def written(default, kind):
    """A default as the model's file writes it."""
    if kind in ("map", "set"):
        return "D:%s%d" % (kind, len(default))
    if kind == "datetime":
        return "D:date" if default == schema.EPOCH else default
    if kind == "ref":
        return "D:ref:" + default
    if kind == "float":
        return "D:%g." % default
    return "D:" + (default if kind == "enum" else json.dumps(default))


def _counted(default, text):
    """The one default of which the lab has not the value: the role of a subject, an object that it
    has not."""
    return text == "D:set1" and default == []


def test_it_is_the_real_model():
    assert len(model.MODEL) > 70 and len(calls.REGISTRY) > 2000
    assert differences(calls.REGISTRY, schema.CLASSES) == []
    assert not [name for name in tables.HIDDEN if model.message(name)]
    assert {name for names in tables.SETTERS.values() for name in names} >= {
        "blocked_operations",
        "managed",
    }


@pytest.mark.parametrize(
    "name, change, wrong",
    [
        ("VBD.set_VDI", {}, "xapi has no VBD.set_VDI"),
        (
            "VM.create",
            {"parameters": schema.signature("record:record(VM)")},
            "VM.create has other parameters",
        ),
        (
            "SR.set_name_label",
            {"parameters": schema.signature("self:ref(SR) value:string")},
            "SR.set_name_label has other parameters",
        ),
        (
            "VM.add_to_blocked_operations",
            {"parameters": schema.signature("self:ref(VM) key:string value:string")},
            "VM.add_to_blocked_operations has other parameters",
        ),
        (
            "VDI.snapshot",
            {"parameters": schema.signature("vdi:ref(VDI) driver_params:map(string,string)")},
            "VDI.snapshot has other parameters",
        ),
        ("session.logout", {"needs_session": False}, "session.logout differs in its session"),
        ("host.migrate_receive", None, "host.migrate_receive is not answered"),
    ],
)
def test_a_call_that_differs_is_seen(name, change, wrong):
    registry = dict(calls.REGISTRY)
    registry[name] = registry.get(name, registry["VM.destroy"])._replace(**change or {})
    if change is None:
        del registry[name]
    assert differences(registry, {}) == [wrong]


@pytest.mark.parametrize(
    "name, change",
    [
        ("VM.colour", {}),
        ("VIF.ipv4_configuration_mode", {"type": model.Type("enum", ("None", "Static"))}),
        ("VM.groups", None),
        ("pool.blobs", {"type": model.parse_type("(string -> string) map")}),
        ("pool.ha_cluster_stack", {"default": "xhad"}),
        ("PIF.currently_attached", {"default": False}),
        ("host.ssl_legacy", {"default": False}),
        ("VDI.name_label", {"required": True}),
        ("VM.blocked_operations", {"access": "RW"}),
        ("VM.power_state", {"default": "Running"}),
        ("VDI.current_operations", {"kept": True}),
        ("network.MTU", {"default": 0}),
    ],
)
def test_a_field_that_differs_is_seen(name, change):
    class_name, field = name.split(".")
    fields = dict(schema.CLASSES[class_name])
    fields[field] = fields.get(field, fields["uuid"])._replace(**change or {})
    if change is None:
        del fields[field]
    assert differences(calls.REGISTRY, {class_name: fields}) == [name]


# --- a xapi that runs


@pytest.fixture(scope="module")
def pool():
    pool = LabPool()
    pool.master.xenopsd = TinyXenopsd(pool.master.root)
    yield pool
    pool.master.xenopsd.stop()
    pool.stop()


@pytest.fixture(scope="module")
def session(pool):
    session = pool.master.remote()
    yield session
    session.logout()


@pytest.fixture
def x(session):
    return session.xenapi


@pytest.fixture(scope="module")
def web(pool, session):
    """A VM that runs, with a disk, a VIF, a snapshot, a blocked operation, like the recorded one;
    and one that is halted."""
    x = session.xenapi
    sr = make_sr(x, pool.master.ref(x))
    network = x.network.create({"name_label": "n", "name_description": "", "other_config": {}})
    vms = []
    for name in ("web", "web2"):
        vm = x.VM.create(vm_record(name_label=name))
        x.VBD.create(vbd_record(vm, x.VDI.create(vdi_record(sr))))
        x.VIF.create(vif_record(vm, network))
        vms.append(vm)
    x.VM.start(vms[0], False, False)
    x.VM.snapshot(vms[0], "before")
    x.VM.add_to_blocked_operations(vms[0], "destroy", "protected")
    return {"running": vms[0], "halted": vms[1], "sr": sr, "network": network}


def answer(pool, session, name, parameters):
    """What the lab answers to a recorded request with these parameters instead: whole, as it
    came."""
    method, recorded_parameters = recorded.request(name)
    assert len(parameters) == len(recorded_parameters)
    (parsed,), _ = xmlrpc.client.loads(
        _post(pool, xmlrpc.client.dumps((session.handle,) + tuple(parameters), method))
    )
    return parsed


def _post(pool, body):
    return urllib.request.urlopen(
        urllib.request.Request(pool.master.url, body.encode()), timeout=60
    ).read()


def of_xapi(name, *exchanged):
    """The recorded failure, with the refs of that day exchanged for the lab's."""
    pairs = dict(exchanged)
    return {
        "Status": "Failure",
        "ErrorDescription": [pairs.get(part, part) for part in recorded.failure(name)],
    }


def test_errors_are_xapis(pool, session, web):
    vm = web["running"]
    (vbd,) = session.xenapi.VM.get_VBDs(vm)
    vdi = session.xenapi.VBD.get_VDI(vbd)
    host = session.xenapi.host.get_all()[0]
    session.xenapi.VDI.add_to_sm_config(vdi, "k", "v")
    for name, ours, position in (
        ("xapi-VM.nosuch", [vm], 0),
        ("xapi-VM.get_record-too-many", [vm, "x"], 0),
        ("xapi-VM.set_ha_always_run-wrong-type", [vm, "x"], 0),
        ("xapi-VM.destroy-blocked", [vm], 0),
        ("xapi-VDI.add_to_sm_config-duplicate", [vdi, "k", "v"], 0),
        ("xapi-host.call_plugin-missing", [host, "nosuch.py", "f", {}], 0),
    ):
        assert answer(pool, session, name, ours) == of_xapi(
            name, (recorded.request(name)[1][position], ours[position])
        ), name
    uuid = recorded.request("xapi-VM.get_by_uuid-unknown")[1][0]
    assert answer(pool, session, "xapi-VM.get_by_uuid-unknown", [uuid]) == of_xapi(
        "xapi-VM.get_by_uuid-unknown"
    )
    session.xenapi.VDI.remove_from_sm_config(vdi, "k")
    name = "xapi-VDI.remove_from_sm_config-absent"
    assert answer(pool, session, name, [vdi, "k"]) == recorded.response(name)
    name = "xapi-VM.assert_operation_valid-migrate_send"
    assert answer(pool, session, name, [vm, "migrate_send"]) == recorded.response(name)


def test_a_plugin_that_fails(pool, x):
    failure = failure_of(x.host.call_plugin, x.host.get_all()[0], "probe", "exit", {"a": "b"})
    assert failure == recorded.failure("xapi-host.call_plugin-exit-3")[:2] + ["out\n", "err"]


def test_a_plugin_gets_its_argument_as_from_xapi(pool, session, x):
    said = x.host.call_plugin(x.host.get_all()[0], "probe", "argv", {"a": "b", "c": "<&"})
    expected = recorded.read("plugin-argv.request").decode().strip()
    theirs = xmlrpc.client.loads(expected)[0][0]
    assert said == expected.replace(theirs, session.handle).replace(
        "<methodName>fn<", "<methodName>argv<"
    )


def test_records_have_xapis_shape(pool, x, web):
    (vbd,), (vif,) = x.VM.get_VBDs(web["running"]), x.VM.get_VIFs(web["running"])
    for name, record in (
        ("VM.get_record-running", x.VM.get_record(web["running"])),
        ("VM.get_record-halted", x.VM.get_record(web["halted"])),
        ("VBD.get_record", x.VBD.get_record(vbd)),
        ("VIF.get_record", x.VIF.get_record(vif)),
        ("VDI.get_record", x.VDI.get_record(x.VBD.get_VDI(vbd))),
        ("SR.get_record", x.SR.get_record(web["sr"])),
        ("host.get_record", x.host.get_record(x.host.get_all()[0])),
    ):
        assert recorded.shape(record) == recorded.shape(recorded.value("xapi-" + name)), name
    for class_name in ("pool", "SM"):
        ours, theirs = (
            getattr(x, class_name).get_all_records(),
            recorded.value("xapi-%s.get_all_records" % class_name),
        )
        assert recorded.shape(list(ours.values())[0]) == recorded.shape(list(theirs.values())[0])
    ours, theirs = (
        list(x.pool.get_all_records().values())[0],
        list(recorded.value("xapi-pool.get_all_records").values())[0],
    )
    assert ours["ha_cluster_stack"] == theirs["ha_cluster_stack"]
    ours, theirs = x.host.get_record(x.host.get_all()[0]), recorded.value("xapi-host.get_record")
    for field in ("ssl_legacy", "license_server", "virtual_hardware_platform_versions"):
        assert ours[field] == theirs[field]


def test_every_record_has_values_of_the_models_types(x, web):
    seen = 0
    for class_name, fields in schema.CLASSES.items():
        if model.message(class_name + ".get_all_records") is None:
            continue
        for record in getattr(x, class_name).get_all_records().values():
            assert set(record) == set(fields), class_name
            for name, field in fields.items():
                schema.coerce(record[name], field.type, "%s.%s" % (class_name, name))
                seen += 1
    assert seen > 500


def test_tasks_of_a_client_are_as_with_xapi(x, web):
    task = x.task.create("t", "d")
    x.task.add_to_other_config(task, "applies_to", web["running"])
    x.task.set_progress(task, 0.5)
    determined = (
        "name_label",
        "name_description",
        "allowed_operations",
        "status",
        "progress",
        "type",
        "result",
        "error_info",
        "subtask_of",
        "subtasks",
        "backtrace",
        "finished",
    )

    def compared(name):
        ours, theirs = x.task.get_record(task), recorded.value("xapi-task.get_record-" + name)
        assert recorded.shape(ours) == recorded.shape(theirs)
        assert {field: ours[field] for field in determined} == {
            field: theirs[field] for field in determined
        }
        assert list(ours["current_operations"].values()) == list(
            theirs["current_operations"].values()
        )
        assert [key.split("|")[::2] for key in ours["current_operations"]] == [
            key.split("|")[::2] for key in theirs["current_operations"]
        ]
        assert list(ours["other_config"]) == list(theirs["other_config"])

    compared("pending")
    x.task.cancel(task)
    compared("cancel-asked")
    x.task.set_status(task, "success")
    compared("success")
    x.task.destroy(task)
    assert failure_of(x.task.get_record, task) == ["HANDLE_INVALID", "task", task]
    assert recorded.failure("xapi-task.get_record-destroyed")[:2] == ["HANDLE_INVALID", "task"]


def test_a_pending_task_that_is_destroyed_stays_until_it_has_a_final_status(x):
    task = x.task.create("t", "d")
    x.task.destroy(task)
    assert x.task.get_current_operations(task) == {"task": "destroy"} and task in x.task.get_all()
    x.task.set_progress(task, 0.9)
    x.task.set_status(task, "failure")
    assert task not in x.task.get_all()


def test_events_are_as_from_xapi(x, web):
    theirs = recorded.value("xapi-event.from")
    task = x.task.create("t", "d")
    ours = getattr(x.event, "from")(["vm", "task"], "", 5.0)
    assert recorded.shape(ours) == recorded.shape(theirs) and len(ours["token"]) == len(
        theirs["token"]
    )
    # a class of messages alone
    assert set(theirs["valid_ref_counts"]) - set(ours["valid_ref_counts"]) == {"diagnostics"}
    assert (
        recorded.shape(ours["valid_ref_counts"], 1)["vm"]
        == recorded.shape(theirs["valid_ref_counts"], 1)["vm"]
        == "int"
    )
    kinds = {event["class"]: event for event in theirs["events"]}
    assert {event["class"] for event in ours["events"]} == set(kinds)
    for event in ours["events"]:
        assert recorded.shape(event, 2) == recorded.shape(kinds[event["class"]], 2)
        assert (event["operation"], event["timestamp"]) == ("add", "0.0")
    x.task.set_status(task, "success")
    x.task.destroy(task)
    another = x.task.create("another", "")
    x.VM.set_name_description(web["halted"], "changed %s" % time.time())
    later = getattr(x.event, "from")(["vm", "task"], ours["token"], 5.0)
    assert [(event["operation"], event["ref"]) for event in later["events"]] == [
        ("add", another),
        ("mod", web["halted"]),
        ("del", task),
    ]
    assert "snapshot" not in later["events"][-1]
    x.task.set_status(another, "success")
    x.task.destroy(another)


def test_an_event_can_be_asked_for(x, web):
    """What clients do that want to see their own connection at work, and everything up to now."""
    assert failure_of(x.event.inject, "pool", "OpaqueRef:no") == [
        "HANDLE_INVALID",
        "pool",
        "OpaqueRef:no",
    ]
    assert failure_of(x.event.inject, "pool", web["running"]) == [
        "HANDLE_INVALID",
        "pool",
        web["running"],
    ]
    (pool_ref,) = x.pool.get_all()
    token = x.event.inject("pool", pool_ref)
    (event,) = getattr(x.event, "from")(["pool"], token, 5.0)["events"]
    assert (event["operation"], event["ref"]) == ("mod", pool_ref)


def test_migrate_receive_answers_as_xapi(pool, x):
    theirs = recorded.value("xapi-host.migrate_receive")
    (host,) = x.host.get_all()
    network = x.PIF.get_network(x.host.get_PIFs(host)[0])
    ours = x.host.migrate_receive(host, network, {})
    assert recorded.shape(ours) == recorded.shape(theirs) and ours["host"] == host
    for key in ("SM", "xenops", "master"):
        there = (
            theirs[key]
            .replace("http://192.0.2.19", pool.master.url)
            .replace(theirs["session_id"], ours["session_id"])
        )
        assert ours[key] == there
    assert x.host.migrate_receive(host, network, {})["session_id"] != ours["session_id"]


def test_all_methods_are_listed(pool):
    methods = xmlrpc.client.ServerProxy(pool.master.url).system.listMethods()["Value"]
    assert {
        "VM.get_all_records",
        "event.from",
        "event.inject",
        "session.login_with_password",
        "VM.pool_migrate_complete",
    } <= set(methods)
    assert set(methods) == set(calls.REGISTRY)


# --- what the data model does not say


def test_fields_of_a_record_that_may_be_missing(x, web):
    vm = vm_record()
    del vm["name_label"], vm["name_description"]
    made = x.VM.create(
        dict(
            vm,
            blocked_operations={"start": "not kept"},
            power_state="Running",
            actions_after_shutdown="DESTROY",
        )
    )
    record = x.VM.get_record(made)
    assert (
        record["name_label"],
        record["blocked_operations"],
        record["power_state"],
        record["domain_type"],
    ) == ("", {}, "Halted", "hvm")
    assert record["actions_after_shutdown"] == "destroy" and list(record["other_config"]) == [
        "mac_seed"
    ]
    x.VM.destroy(made)
    vdi = vdi_record(web["sr"])
    del vdi["name_label"]
    assert x.VDI.get_name_label(x.VDI.create(vdi)) == ""


@pytest.mark.parametrize(
    "of_type, value, text",
    [
        ("bool", "x", "Expected bool, got 'S(x)'"),
        ("bool", 1, "Expected bool, got 'I(1)'"),
        ("int", True, "Expected int64, got 'B(true)'"),
        ("int", "1.5", "Int64.of_string"),
        ("float", "x", "float_of_string"),
        ("string", 5, "Expected string, got 'I(5)'"),
        ("VM ref", [], "Expected string, got '[]'"),
        ("enum vm_operations", "fly", "Unknown tag/contents"),
        ("string set", "x", "Expecting Rpc.Enum, but found 'S(x)'"),
        ("string set", [1], "Expected string, got 'I(1)'"),
        ("(string -> string) map", "x", "Expecting Rpc.Dict, but found 'S(x)'"),
        ("(string -> string) map", {"a": {"b": "c"}}, "Expected string, got '{b:S(c)}'"),
        ("(enum vm_operations -> string) map", {"fly": ""}, "Unknown tag/contents"),
        ("(enum vm_operations -> string) map", "x", "Unmarshalling error"),
    ],
)
def test_a_value_of_a_wrong_type(of_type, value, text):
    with pytest.raises(calls.Failure) as raised:
        schema.coerce(value, model.parse_type(of_type), "value")
    assert raised.value.description == ["INTERNAL_ERROR", "Failure(%s)" % json.dumps(text)]


def test_what_comes_first(pool, session, x):
    """Unknown calls look at the session, known ones at their parameters before that."""
    proxy = xmlrpc.client.ServerProxy(pool.master.url)
    assert proxy.VM.nosuch("OpaqueRef:gone")["ErrorDescription"] == [
        "SESSION_INVALID",
        "OpaqueRef:gone",
    ]
    assert proxy.VM.nosuch()["ErrorDescription"] == ["MESSAGE_METHOD_UNKNOWN", "VM.nosuch"]
    assert proxy.VM.destroy("OpaqueRef:gone")["ErrorDescription"] == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        "VM.destroy",
        "1",
        "0",
    ]
    assert proxy.VM.destroy()["ErrorDescription"] == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        "VM.destroy",
        "1",
        "-1",
    ]
    assert proxy.VM.destroy("OpaqueRef:gone", 5)["ErrorDescription"] == [
        "INTERNAL_ERROR",
        "Failure(\"Expected string, got 'I(5)'\")",
    ]
    # An argument too many is ignored where the last ones may be left out (gen_server.ml)
    assert (
        proxy.VDI.snapshot(session.handle, "OpaqueRef:no", {}, "more")["ErrorDescription"][0]
        == "HANDLE_INVALID"
    )
    assert proxy.VM_get_all(session.handle)["Status"] == "Success"


@pytest.mark.parametrize(
    "bridge", ["xapi0", "xenbr9", "vif1.0", "tap0", "eth7", "0123456789abcdef"]
)
def test_names_of_bridges_that_are_xapis_own(x, bridge):
    record = {"name_label": "n", "other_config": {}, "bridge": bridge}
    assert failure_of(x.network.create, record) == ["INVALID_VALUE", "bridge", bridge]


def test_a_bridge_that_is_there_already(x):
    record = {"name_label": "n", "other_config": {}, "bridge": "guests0", "MTU": "0"}
    network = x.network.create(record)
    assert x.network.get_MTU(network) == "1500" and failure_of(x.network.create, record) == [
        "BRIDGE_NAME_EXISTS",
        "guests0",
    ]
