# SPDX-License-Identifier: LGPL-2.1-only
"""Every XenAPI call of the product is one that xapi has, with as many parameters:
docs/facts/xapi-datamodel.json."""

import ast
import json
import os

import pytest

import product_calls

REPOSITORY = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
PRODUCT = ("storage_motion", "plugins", "drivers", "xapi-hooks")

# Messages that xapi answers and does not document, so that its data model, as it is published, has
# them not (ocaml/idl/datamodel*.ml): name -> how many parameters, the session apart.
HIDDEN = {
    "VDI.set_managed": 2,
    "VDI.set_is_a_snapshot": 2,
    "VDI.set_snapshot_of": 2,
    "VDI.set_snapshot_time": 2,
    "VM.pool_migrate_complete": 2,
    "host.allocate_resources_for_vm": 3,
    "host.get_sm_diagnostics": 1,
    "host.sm_dp_destroy": 3,
    "network.attach_for_vm": 2,
    "network.detach_for_vm": 2,
}


@pytest.fixture(scope="module")
def model():
    with open(os.path.join(REPOSITORY, "docs/facts/xapi-datamodel.json"), encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def found():
    return product_calls.find(
        product_calls.sources(
            REPOSITORY, [name for name in PRODUCT if os.path.isdir(os.path.join(REPOSITORY, name))]
        )
    )


def faults(model, calls, classes):
    """What is wrong with these calls, a line each."""
    wrong = []
    for where, name, count in calls:
        class_name, _, method = name.partition(".")
        for each in sorted(classes) if class_name == product_calls.ANY_CLASS else [class_name]:
            message = model.get(each, {"messages": {}})["messages"].get(method)
            full = "%s.%s" % (each, method)
            if message is None and full not in HIDDEN:
                wrong.append("%s: xapi has no %s" % (where, full))
                continue
            needed = (
                [needed for parameter, _, needed in message["params"] if parameter != "session_id"]
                if message
                else [True] * HIDDEN[full]
            )
            if not sum(needed) <= count <= len(needed):
                wrong.append(
                    "%s: %s takes %d parameters, not %d" % (where, full, len(needed), count)
                )
    return wrong


def test_every_call_is_one_of_xapis(model, found):
    assert faults(model, *found) == []


def test_the_hidden_ones_are_used_and_hidden(model, found):
    used = {name for _, name, _ in found[0]}
    assert set(HIDDEN) <= used
    assert not [
        name for name in HIDDEN if name.split(".")[1] in model[name.split(".")[0]]["messages"]
    ]


def test_calls_are_found_by_all_their_names(found):
    """A few of which one knows, so that the search itself is not blind: direct, by an alias, an
    attribute, a parameter, passed on."""
    files = {(where.split(":")[0], name, count) for where, name, count in found[0]}
    assert {
        ("storage_motion/migration/phases/complete.py", "VM.pool_migrate_complete", 2),
        ("storage_motion/migration/phases/cleanup.py", "VM.destroy", 1),
        ("storage_motion/xapi/managed.py", "session.add_to_other_config", 3),
        ("storage_motion/sm/disks/mirrored.py", "VDI.snapshot", 2),
        ("storage_motion/sm/smapi.py", "PBD.get_device_config", 1),
        ("storage_motion/migration/phases/claim.py", "VM.add_to_blocked_operations", 3),
        ("storage_motion/xapi/tasks.py", "task.set_progress", 2),
        ("storage_motion/xapi/records.py", "*.get_all_records", 0),
    } <= files
    assert {"VM", "VDI", "SR", "host", "pool"} <= found[1]


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("session.xenapi.VBD.set_VDI(vbd, vdi)", "xapi has no VBD.set_VDI"),
        ("session.xenapi.VM.destroy()", "VM.destroy takes 1 parameters, not 0"),
        (
            "api = session.xenapi\ndef f():\n    return api.pool.get_by_name_label('x')",
            "xapi has no pool.get_by_name_label",
        ),
        (
            "def g(one):\n    one.get_nothing(1)\ng(session.xenapi.VDI)",
            "xapi has no VDI.get_nothing",
        ),
        (
            "class A:\n    def __init__(self, s):\n        self._x = s.xenapi.task\n    def "
            "f(self):\n        self._x.set_resident_on(1, 2)",
            "xapi has no task.set_resident_on",
        ),
        (
            "quietly(session.xenapi.task.set_progress, 0.5)",
            "task.set_progress takes 2 parameters, not 1",
        ),
        (
            "session.login_with_password('root')",
            "session.login_with_password takes 4 parameters, not 1",
        ),
        ("a, b = s.xenapi.VM, 1\na.migrate(1)", "xapi has no VM.migrate"),
    ],
)
def test_a_wrong_call_is_seen(model, text, wrong):
    calls, classes = product_calls.find({"x.py": ast.parse(text)})
    (said,) = faults(model, calls, classes)
    assert said.endswith(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "x = [session.xenapi]",
        "return_it = lambda: session.xenapi.VM",
        "session.xenapi.VM.destroy(*refs)",
        "elsewhere(session.xenapi.VM)",
    ],
)
def test_what_is_not_understood_is_no_pass(text):
    with pytest.raises(ValueError):
        product_calls.find({"x.py": ast.parse(text)})
