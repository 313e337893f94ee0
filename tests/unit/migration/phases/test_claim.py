# SPDX-License-Identifier: LGPL-2.1-only
"""Claiming a VM, and giving back exactly what was taken."""

import json
import os

import pytest
import XenAPI

from fake_migration import make_plan
from fake_pool import add_vdi, add_vm, by_name, make_pool
from storage_motion.errors import AlreadyMigrating
from storage_motion.migration.phases import claim

REPOSITORY = os.path.abspath(__file__ + "/../../../../..")


class FakeMigration:
    """What `claim` needs of a migration."""

    id = "m"

    def __init__(self):
        self.source = make_pool("A", ["a1"])
        vdi = add_vdi(self.source, by_name(self.source, "SR", "a1-sr"))
        self.ref = add_vm(
            self.source,
            by_name(self.source, "host", "a1"),
            [vdi],
            by_name(self.source, "network", "guests"),
        )
        plan = make_plan(vm=self.record["uuid"])
        self.vdi = self.source.tables["VDI"][vdi]
        self.vbd = self.source.tables["VBD"][self.record["VBDs"][0]]
        self.plan = plan._replace(
            disks=[plan.disks[0]._replace(key=self.vdi["uuid"], vbd=self.vbd["uuid"])]
        )
        self.entry, self.disks = {}, {}

    record = property(lambda self: self.source.tables["VM"][self.ref])

    def vm(self):
        return self.ref

    def source_vdi(self, disk):
        return self.source.xenapi.VDI.get_by_uuid(disk.key)

    def note(self, **fields):
        self.entry.update(fields)

    def warn(self, text, **fields):
        self.note(warnings=self.entry.get("warnings", []) + [text], **fields)

    def disk(self, key):
        return self.disks.setdefault(key, {})

    def without_secrets(self, text):
        return text


@pytest.mark.parametrize(
    "operation",
    [
        "snapshot",
        "suspend",
        "pool_migrate",
        "migrate_send",
        "checkpoint",
        "destroy",
        "hard_shutdown",
        "clean_shutdown",
        "hard_reboot",
        "clean_reboot",
        "start",
        "revert",
    ],
)
def test_what_would_disturb_is_refused_with_the_reason(operation):
    m = FakeMigration()
    claim.claim(m)
    assert "Storage XenMotion m" in m.record["blocked_operations"][operation]


def test_what_the_migration_needs_is_not_blocked():
    assert not {"metadata_export", "power_state_reset", "stateReset"} & set(claim.DISTURBING)


def test_what_is_blocked_is_an_operation_of_xapis():
    with open(os.path.join(REPOSITORY, "docs/facts/xapi-datamodel.json"), encoding="utf-8") as file:
        model = json.load(file)
    assert not set(claim.DISTURBING) - set(model["VM"]["enums"]["vm_operations"])
    # Blocking works by the name of a message; of what has none only what stands for several.
    assert {name for name in claim.DISTURBING if name not in model["VM"]["messages"]} == {
        "make_into_template",
        "export",
        "csvm",
        "reverting",  # of the VM itself, while its snapshot has `revert` (message_forwarding.ml)
    }


def test_an_operation_that_an_older_xapi_does_not_know_is_left_out():
    m = FakeMigration()
    answers = [
        ["INTERNAL_ERROR", 'Failure("Unknown tag/contents")'],
        ["INTERNAL_ERROR", "something else"],
    ]

    def refusing(ref, operation, text):
        if operation == "sysprep":
            raise XenAPI.Failure(answers.pop(0))
        m.record["blocked_operations"] = dict(m.record["blocked_operations"], **{operation: text})

    m.source.handlers["VM.add_to_blocked_operations"] = refusing
    claim.claim(m)
    assert set(m.record["blocked_operations"]) == set(claim.DISTURBING) - {"sysprep"}
    claim.unblock(m)
    assert m.record["blocked_operations"] == {}
    with pytest.raises(XenAPI.Failure, match="something else"):
        claim.claim(m)


def test_release_takes_back_only_ours():
    m = FakeMigration()
    m.record["blocked_operations"] = {"destroy": "precious"}
    before = dict(m.record), dict(m.vdi), dict(m.vbd)
    claim.claim(m)
    claim.claim(m)
    m.source.xenapi.VM.remove_from_blocked_operations(m.ref, "start")
    m.source.xenapi.VM.add_to_blocked_operations(m.ref, "start", "the user's, meanwhile")
    claim.release(m)
    claim.release(m)
    before[0]["blocked_operations"]["start"] = "the user's, meanwhile"
    assert (dict(m.record), dict(m.vdi), dict(m.vbd)) == before


def test_of_two_only_one_gets_it():
    m = FakeMigration()
    claim.claim(m)
    m.id = "n"
    with pytest.raises(AlreadyMigrating):
        claim.claim(m)
    claim.release(m)
    assert m.record["other_config"] == {"sxm_migration": "m"}, (
        "the undo of the second leaves the first alone"
    )


@pytest.mark.parametrize("calls", range(1, 35))
def test_a_failure_at_every_call_is_undone(calls):
    m = FakeMigration()
    before = dict(m.record), dict(m.vdi), dict(m.vbd)
    real, left = m.source.call, [calls]

    def failing(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise OSError("xapi is gone")
        return real(*arguments)

    m.source.call = failing
    try:
        claim.claim(m)
    except OSError:
        pass
    m.source.call = real
    claim.release(m)
    assert (dict(m.record), dict(m.vdi), dict(m.vbd)) == before


@pytest.mark.parametrize(
    "attached, operations, are_reset",
    [(True, {}, True), (False, {}, False), (True, {"OpaqueRef:task": "start"}, False)],
)
def test_devices_that_a_failed_start_has_left_attached(attached, operations, are_reset):
    m = FakeMigration()
    m.plan = m.plan._replace(live=False)
    m.record["power_state"], m.vbd["currently_attached"] = "Halted", attached
    m.record["current_operations"] = operations
    reset = []
    m.source.handlers["VM.power_state_reset"] = reset.append
    claim.claim(m)
    assert reset == ([m.ref] if are_reset else [])


def test_its_disks_are_not_unplugged_meanwhile():
    m = FakeMigration()
    claim.claim(m)
    assert m.vbd["unpluggable"] is False
    claim.claim(m)
    claim.release(m)
    claim.release(m)
    assert m.vbd["unpluggable"] is True


def test_a_disk_that_never_was_to_be_unplugged_stays_so():
    m = FakeMigration()
    m.vbd["unpluggable"] = False
    claim.claim(m)
    claim.release(m)
    assert m.vbd["unpluggable"] is False


def test_the_disks_of_the_vm_that_has_arrived_may_be_unplugged_again():
    m = FakeMigration()
    m.destination = make_pool("B", ["b1"])
    vdis = [add_vdi(m.destination, by_name(m.destination, "SR", "b1-sr")) for _ in range(2)]
    vm = add_vm(
        m.destination,
        by_name(m.destination, "host", "b1"),
        vdis,
        by_name(m.destination, "network", "guests"),
    )
    vbds = [m.destination.tables["VBD"][ref] for ref in m.destination.tables["VM"][vm]["VBDs"]]
    for vbd in vbds:
        vbd["unpluggable"] = False
    m.disk = lambda key: {"destination_vdi": m.destination.tables["VDI"][vdis[0]]["uuid"]}
    claim.claim(m)
    claim.loosen_arrived(m, vm)
    assert [vbd["unpluggable"] for vbd in vbds] == [True, False], "only those that we fastened"


def test_what_the_user_has_blocked_hinders_no_clean_up_and_is_put_back():
    m = FakeMigration()
    m.record["blocked_operations"] = {"hard_shutdown": "precious"}
    claim.claim(m)
    noted = []
    m.source.handlers["VM.remove_from_blocked_operations"] = lambda ref, operation: (
        noted.append(dict(m.entry["lifted"])),
        m.record["blocked_operations"].pop(operation),
    )
    claim.lift(m, m.ref, "hard_shutdown")
    assert "hard_shutdown" not in m.record["blocked_operations"]
    assert noted == [{"hard_shutdown": "precious"}], "the journal knows it before it is taken away"
    claim.lift(m, m.ref, "clean_shutdown")  # ours
    claim.release(m)
    assert (
        m.record["blocked_operations"] == {"hard_shutdown": "precious"} and m.entry["lifted"] == {}
    )


def test_what_the_user_has_blocked_meanwhile_goes_along_too():
    m = FakeMigration()
    claim.claim(m)
    m.record["blocked_operations"]["destroy"] = "since then"
    m.record["blocked_operations"]["send_trigger"] = "likewise"
    for _ in range(2):  # killed in between, and done again
        claim.lift(m, m.ref, "destroy")
        m.record["blocked_operations"].pop("destroy", None)
    assert m.entry["blocked_by_user"] == {"destroy": "since then", "send_trigger": "likewise"}


def test_a_claim_that_xapi_has_lost_is_put_back():
    """That the VM is ours the journal and its UUID say."""
    m = FakeMigration()
    m.source.sync()
    claim.claim(m)
    before = dict(m.record), dict(m.vdi), dict(m.vbd)
    m.entry["begun"] = ["claim"]
    m.source.goes_back()
    assert m.record["blocked_operations"] == {} and m.record["other_config"] == {}
    for _ in range(2):
        claim.put_back(m)
    tables = m.source.tables
    vdi, vbd = next(iter(tables["VDI"].values())), tables["VBD"][m.record["VBDs"][0]]
    assert (m.record, vdi, vbd) == before


def test_it_is_not_put_back_on_what_another_migration_has_claimed_meanwhile():
    m = FakeMigration()
    m.source.sync()
    claim.claim(m)
    m.entry["begun"] = ["claim"]
    m.source.goes_back()
    m.record["other_config"][claim.CLAIM] = "another"
    with pytest.raises(AlreadyMigrating):
        claim.put_back(m)
    assert m.record["blocked_operations"] == {}


def test_nothing_is_put_back_that_was_not_begun_or_is_cleaned_up():
    m = FakeMigration()
    m.entry["begun"] = []
    claim.put_back(m)
    assert m.record["blocked_operations"] == {}
    m.entry["begun"] = ["claim"]
    del m.source.tables["VM"][m.ref]
    claim.put_back(m)
