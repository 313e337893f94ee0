# SPDX-License-Identifier: LGPL-2.1-only
"""The table of the plugin's functions: names are checked, a VM names its migration, help and the
version come from it."""

import json
import os
import re

import pytest

import storage_motion
from fake_migration import ID, make_plan
from fake_pool import by_name, make_pool, uuid_of
from storage_motion.api import arguments, functions, other_hosts, status
from storage_motion.api.arguments import Problems
from storage_motion.errors import BadArguments, NoSuchMigration
from storage_motion.journal.journal import Journal
from storage_motion.migration import at_destination, migration, recovery

REPOSITORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")
OLDER = "99999999-2222-3333-4444-555555555555"
OTHER = "88888888-2222-3333-4444-555555555555"
VM = "66666666-2222-3333-4444-555555555555"
PLAN = make_plan()._replace(vm=VM)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    found = make_pool("A", ["a1"])
    found.handlers["VM.get_by_name_label"] = lambda name: []
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/xensource-inventory").write_text(
        "INSTALLATION_UUID='%s'\n" % uuid_of(found, "host", by_name(found, "host", "a1"))
    )
    return found


def begin(found, plan=None, **fields):
    entry = Journal.create(found, **migration.initial(plan or PLAN))
    entry.write(**fields)
    return entry


@pytest.mark.parametrize(
    "function",
    sorted(name for name in functions.FUNCTIONS if functions.FUNCTIONS[name].takes.arguments),
)
def test_a_wrong_name_is_refused_before_anything_is_done(pool, function):
    right = functions.FUNCTIONS[function].takes.arguments[0].kind
    wrong = right[:2] + right[3:] if len(right) > 2 else right + "x"
    with pytest.raises(BadArguments) as raised:
        functions.call(function, pool, {wrong: "x"})
    assert any(
        detail.startswith(
            "%s: is not an argument of %s; did you mean %s?" % (wrong, function, right)
        )
        for detail in raised.value.details
    ), raised.value.details
    assert pool.calls == []


def test_recover_of_a_misspelt_migration_recovers_nothing(pool, monkeypatch):
    monkeypatch.setattr(recovery, "recover", lambda *_: pytest.fail("it recovered"))
    for given, detail in (
        ({"migraton": ID}, "migraton: is not an argument of recover; did you mean migration?"),
        (
            {"migration": ""},
            "migration: is empty; leave it out to recover all migrations of this host",
        ),
        ({"vm": ""}, "vm: is empty; leave it out to recover all migrations of this host"),
    ):
        with pytest.raises(BadArguments) as raised:
            functions.call("recover", pool, given)
        assert raised.value.details == [detail]


@pytest.mark.parametrize("function", sorted(functions.FUNCTIONS))
def test_what_is_required_is_named(pool, function):
    for group in functions.FUNCTIONS[function].takes.required:
        with pytest.raises(BadArguments) as raised:
            functions.call(function, pool, {})
        assert any(
            detail.startswith("%s: is missing; " % group[0])
            and all(name in detail for name in group)
            for detail in raised.value.details
        ), raised.value.details
    assert pool.calls == []


class Recording(dict):
    """Notes which arguments a function asks for."""

    def __init__(self, *values):
        super(Recording, self).__init__(*values)
        self.asked = set()

    def get(self, name, default=None):
        """As a dict's."""
        self.asked.add(name)
        return super(Recording, self).get(name, default)


def test_migrate_reads_just_what_its_table_has():
    names = {one.name for one in arguments.MIGRATE.arguments}
    given = Recording(
        dict(
            {"%s:%s" % (kind, ID): ID for kind in ("vdi", "vif", "base", "vgpu")},
            **{"image-format:%s" % ID: "vhd"},
        )
    )
    problems = Problems()
    arguments.read(given, problems)
    assert {re.sub(":.*", ":", name) for name in given.asked} == {
        re.sub(":.*", ":", name) for name in names
    }


def test_what_a_function_of_the_destination_reads_is_in_its_table(pool):
    for name, run in (
        ("receive-stop", at_destination.receive_stop),
        ("receive-abort", at_destination.receive_abort),
        ("receive-end", at_destination.receive_end),
    ):
        given = Recording({"migration": ID, "vm": VM})
        run(pool, given)
        assert given.asked <= {one.name for one in functions.FUNCTIONS[name].takes.arguments}


def test_the_running_migration_of_a_vm_is_meant_else_the_latest(pool):
    begin(OLDER, state="failed", started=1.0)
    begin(
        OTHER, PLAN._replace(vm="77777777-2222-3333-4444-555555555555", vm_name="db"), started=9.0
    )
    begin(ID, state="failed", started=2.0)
    for text in (VM, VM.upper(), PLAN.vm_name):
        assert functions.call("status", pool, {"vm": text})["migration"] == ID
    Journal.load(OLDER).write(state="running")
    assert functions.call("status", pool, {"vm": VM})["migration"] == OLDER
    with pytest.raises(NoSuchMigration) as raised:
        functions.call("status", pool, {"vm": "nobody"})
    assert raised.value.failure() == ["SXM_NO_SUCH_MIGRATION", "of VM nobody"]
    with pytest.raises(BadArguments) as raised:
        functions.call("status", pool, {"vm": VM, "migration": ID})
    assert raised.value.details == ["vm: is given beside migration; give one of them"]


def test_a_vm_that_has_been_renamed_since(pool):
    begin(ID)
    pool.handlers["VM.get_by_name_label"] = lambda name: ["r"] if name == "new" else []
    pool.handlers["VM.get_uuid"] = lambda ref: VM
    assert functions.call("status", pool, {"vm": "new"})["migration"] == ID


def test_a_name_that_two_have_is_refused(pool):
    begin(ID)
    begin(OTHER, PLAN._replace(vm="77777777-2222-3333-4444-555555555555"))
    with pytest.raises(BadArguments) as raised:
        functions.call("cancel", pool, {"vm": PLAN.vm_name})
    assert (
        "vm: 2 VMs that were migrated are called" in raised.value.details[0]
        and VM in raised.value.details[0]
    )


def test_a_journal_that_cannot_be_read_may_be_the_one_that_is_meant(pool):
    begin(OLDER, state="failed")
    with open(Journal.load(OLDER).path.replace(OLDER, ID), "w") as out:
        out.write("{")
    with pytest.raises(other_hosts.RemoteFailure) as raised:
        functions.call("cancel", pool, {"vm": VM})
    assert raised.value.failure()[0] == "SXM_JOURNAL"
    Journal.load(OLDER).write(state="running")
    assert functions.call("status", pool, {"vm": VM})["migration"] == OLDER


def test_a_vms_migration_is_recovered(pool, monkeypatch):
    begin(ID)
    asked = []
    monkeypatch.setattr(
        recovery, "recover", lambda session, given: asked.append(given) or {"migrations": []}
    )
    functions.call("recover", pool, {"vm": VM, "lost": "destination"})
    assert asked == [{"vm": VM, "lost": "destination", "migration": ID}]


def test_a_vms_migration_is_found_on_another_host(pool, monkeypatch):
    begin(ID)
    there = status.brief(Journal.load(ID).entry)
    Journal.load(ID).remove()
    asked = []

    def call(_, host, function, given):
        asked.append((function, given))
        return (
            {"migrations": [there], "unreadable": []}
            if function == "list"
            else {"migration": ID, "state": "running"}
        )

    monkeypatch.setattr(other_hosts, "alive", lambda session: ["h"])
    monkeypatch.setattr(other_hosts, "call", call)
    assert functions.call("resume", pool, {"vm": VM})["migration"] == ID
    assert asked == [("list", {"local": "true"}), ("resume", {"migration": ID, "local": "true"})]


def test_help_has_all_functions_and_their_arguments(pool):
    answer = functions.call("help", pool, {})
    assert set(answer["functions"]) == set(functions.FUNCTIONS) and json.dumps(answer)
    for name, function in functions.FUNCTIONS.items():
        assert [one["name"] for one in answer["functions"][name]["arguments"]] == [
            one.name for one in function.takes.arguments
        ]
        assert all(one["means"] for one in answer["functions"][name]["arguments"])
    assert list(functions.call("help", pool, {"function": "migrate"})["functions"]) == ["migrate"]
    required = {one["name"]: one["required"] for one in answer["functions"]["status"]["arguments"]}
    assert required == {"migration": "migration or vm", "vm": "migration or vm", "local": "no"}
    with pytest.raises(BadArguments) as raised:
        functions.call("help", pool, {"function": "migrte"})
    assert raised.value.details == ["function: there is no 'migrte'; did you mean migrate?"]


def test_the_version_is_in_every_answer(pool):
    for name, given in (
        ("help", {}),
        ("list", {}),
        ("receive-abort", {"migration": ID}),
        ("receive-stop", {"migration": ID, "vm": VM}),
    ):
        assert functions.call(name, pool, given)["version"] == storage_motion.__version__


def test_the_documentation_names_every_argument_of_migrate():
    with open(os.path.join(REPOSITORY, "README.md")) as stream:
        text = stream.read()
    missing = [one.name for one in arguments.MIGRATE.arguments if "`%s" % one.name not in text]
    assert missing == []
