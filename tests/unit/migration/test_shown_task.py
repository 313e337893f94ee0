# SPDX-License-Identifier: LGPL-2.1-only
"""What XenCenter shows of the Task of a migration.

The rule is XenCenter's own: xenserver/xenadmin (December 2023), XenAdmin/Actions/GUIActions/
MeddlingAction.cs, GetVmOperation, IsTaskUnwanted and UpdateActionTitleAndDescription, with
XenModel/XenAPI-Extensions/Task.cs and XenModel/Messages.resx.
"""

import pytest

from fake_migration import ID, make_plan
from storage_motion.migration import migration
from storage_motion.xapi.records import CLAIM

RECOGNISED = (
    "clean_reboot clean_shutdown clone hard_reboot hard_shutdown migrate_send pool_migrate resume"
    " resume_on start start_on suspend checkpoint snapshot export import"
).split()
TITLES = {
    "migrate_send": "Migrating VM '%s'",
    "pool_migrate": "Migrating VM '%s'",
    "clone": "Copying VM '%s'",
}
XENCENTER = "its own uuid"


def operation(label):
    """The operation of a VM that XenCenter takes a task for, by its name; None: for none."""
    name = label.replace("Async.", "")
    if name.startswith("VM."):
        name = name.replace("VM.", "")
        return name if name in RECOGNISED else None
    if label == "VM import":
        return "import"
    return "export" if label.startswith("Export of VM: ") else None


def is_unwanted(task):
    return (
        task["other_config"].get("XenCenterUUID") == XENCENTER
        or task["subtask_of"] is not None
        or operation(task["name_label"]) is None
    )


class Pool:
    """A pool's session, with the tasks that a client makes in it. A task that a client makes is no
    subtask (xapi_task.ml, create: that of the call itself is not in the database)."""

    def __init__(self):
        self.tasks = {}

    xenapi = VM = task = property(lambda self: self)

    def get_by_uuid(self, uuid):
        return "OpaqueRef:" + uuid

    def create(self, label, description):
        record = {"name_label": label, "name_description": description}
        self.tasks["t"] = dict(record, other_config={}, subtask_of=None)
        return "t"

    def add_to_other_config(self, ref, key, value):
        assert key not in self.tasks[ref]["other_config"]
        self.tasks[ref]["other_config"][key] = value


def shown(by="", **changes):
    """The task of a migration of the VM v, "web", to the host b1."""
    pool, plan = Pool(), make_plan(destination_host_name="b1", **changes)
    migration.task_of(pool, {"migration": ID}, plan, by)
    return pool.tasks["t"]


@pytest.mark.parametrize(
    "changes, title, description",
    [
        ({}, "Migrating VM 'web'", "Storage XenMotion of web to b1"),
        ({"by": "recovery"}, "Migrating VM 'web'", "Storage XenMotion of web to b1, recovery"),
        ({"copy": True}, "Copying VM 'web'", "Storage XenMotion, copy of web to b1"),
    ],
)
def test_xencenter_shows_it_with_its_vm(changes, title, description):
    task = shown(**changes)
    assert not is_unwanted(task)
    applies_to = task["other_config"]["applies_to"].split(",")
    assert applies_to == ["OpaqueRef:v"], "the VM, and no host: its title is that of one name"
    assert TITLES[operation(task["name_label"])] % "web" == title
    assert task["name_description"] == description
    assert task["other_config"][CLAIM] == ID
