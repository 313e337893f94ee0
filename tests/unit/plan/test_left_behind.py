# SPDX-License-Identifier: LGPL-2.1-only
"""What a VM loses when it changes its pool is named before it does; docs/what-moves.md has it."""

import os
import re

import pytest

from fake_pool import NULL, by_name, failure, uuid_of
from plan_world import World
from storage_motion.journal import kept_files
from storage_motion.xapi import blobs

ROOT = os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)
with open(os.path.join(ROOT, "docs/what-moves.md"), encoding="utf-8") as page:
    SECTION = page.read().partition("## What does not come along")[2]
SAID = re.findall(r"^\|.*\| `([^`]+)` \|$", SECTION, re.MULTILINE)


@pytest.fixture
def world():
    return World()


def pool_of(fake):
    (record,) = fake.tables["pool"].values()
    return record


def vif_of(world):
    return world.a.tables["VIF"][world.vm["VIFs"][0]]


def affinity(world):
    world.vm["affinity"] = by_name(world.a, "host", "a2")
    return "home server, host a2 (%s)" % uuid_of(world.a, "host", world.vm["affinity"])


def reference(field, class_name, many=False):
    def set_it(world):
        ref = world.a.add(class_name, name_label="gold", uuid="u-1")
        world.vm[field] = [ref] if many else ref
        return "gold (u-1)"

    set_it.__name__ = field
    return set_it


def suspend_sr(world):
    world.vm["suspend_SR"] = world.sr
    return "a1-sr (%s)" % uuid_of(world.a, "SR", world.sr)


def blob(world):
    large, small = [world.a.add("blob", size=str(size)) for size in (blobs.LARGEST + 1, 1)]
    world.vm["blobs"] = {"screenshot": large, "note": small}
    return "blob screenshot"


def crash_dumps(world):
    world.vm["crash_dumps"] = ["OpaqueRef:1", "OpaqueRef:2"]
    return "2 crash dumps"


def device(world):
    world.vm["other_config"]["pci"] = "0/0000:04:01.0"
    return "other_config:pci=0/0000:04:01.0"


def start_with_host(world):
    world.vm["other_config"]["auto_poweron"] = "true"
    pool_of(world.a)["other_config"]["auto_poweron"] = "true"
    return "other_config:auto_poweron"


def custom_field(world):
    world.vm["other_config"]["XenCenter.CustomFields.owner"] = "me"
    return "custom field owner"


def locked_vif(world):
    vif_of(world)["locking_mode"] = "locked"
    pool_of(world.b)["restrictions"]["restrict_vif_locking"] = "true"
    return "interface 0 (aa:bb:cc:00:00:01) loses its locking mode"


def allowed_address(world):
    vif_of(world).update(locking_mode="network_default", ipv6_allowed=["fd00::1"])
    del pool_of(world.b)["restrictions"]["restrict_vif_locking"]
    return "the addresses that it may have"


def guest_address(world):
    vif_of(world).update(ipv4_configuration_mode="Static", ipv6_configuration_mode="None")
    return "xe vif-configure-ipv4"


def pvs_proxy(world):
    site = world.a.add("PVS_site", name_label="citrix", PVS_uuid="pvs-1")
    world.a.add("PVS_proxy", uuid="proxy-1", VIF=world.vm["VIFs"][0], site=site)
    return "PVS proxy proxy-1, and the destination pool has no PVS site citrix (pvs-1)"


LEFT = [
    affinity,
    reference("appliance", "VM_appliance"),
    reference("groups", "VM_group", many=True),
    reference("snapshot_schedule", "VMSS"),
    reference("protection_policy", "VMPP"),
    suspend_sr,
    blob,
    crash_dumps,
    device,
    start_with_host,
    custom_field,
    locked_vif,
    allowed_address,
    guest_address,
    pvs_proxy,
]


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_it_is_named(world, leave):
    named = leave(world)
    plan, problems = world.cross()
    (warning,) = plan.warnings
    assert not problems and named in warning
    assert ";" in warning or "restrict_vif_locking" in warning, "it says what to do"
    assert any(said in warning for said in SAID), "docs/what-moves.md has no %r" % warning


def test_each_row_of_the_page_is_of_a_warning():
    told = []
    for leave in LEFT:
        world = World()
        leave(world)
        told += world.cross()[0].warnings
    assert len(SAID) >= 13
    assert [said for said in SAID if not any(said in warning for warning in told)] == []


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_within_the_pool_nothing_is_left(world, leave):
    leave(world)
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    assert world.within(**{"destination-sr-uuid": shared})[0].warnings == ()


def host_there(world):
    affinity(world)
    ref = world.b.add("host", uuid=uuid_of(world.a, "host", world.vm["affinity"]), name_label="a2")
    world.b.tables["host"][ref].update(enabled=True, metrics=NULL)


def started_there_too(world):
    start_with_host(world)
    pool_of(world.b)["other_config"]["auto_poweron"] = "true"


def not_started_here(world):
    start_with_host(world)
    pool_of(world.a)["other_config"].clear()


def field_there(world):
    custom_field(world)
    pool_of(world.b)["gui_config"]["XenCenter.CustomFields"] = (
        '<CustomFieldDefinitions><CustomFieldDefinition name="owner" type="String" />'
        "</CustomFieldDefinitions>"
    )


def locking_there(world):
    locked_vif(world)
    pool_of(world.b)["restrictions"]["restrict_vif_locking"] = "false"


def site_there(world):
    pvs_proxy(world)
    world.b.add("PVS_site", name_label="another name", PVS_uuid="pvs-1")


def blocked_operations(world):
    world.vm["blocked_operations"] = {"destroy": "put back by the migration"}


def gone(world):
    world.vm.update(appliance="OpaqueRef:gone", groups=["OpaqueRef:gone"], affinity="OpaqueRef:no")


@pytest.mark.parametrize(
    "come",
    [
        host_there,
        started_there_too,
        not_started_here,
        field_there,
        locking_there,
        site_there,
        blocked_operations,
        gone,
    ],
    ids=lambda come: come.__name__,
)
def test_what_comes_along_is_not(world, come):
    come(world)
    assert world.cross()[0].warnings == ()


def test_all_at_once(world):
    for leave in (affinity, blob, device, guest_address):
        leave(world)
    assert len(world.cross()[0].warnings) == 4


def test_blobs_that_there_would_be_no_room_to_keep(world):
    """Where they cannot be moved they are lost."""
    world.room_to_keep = 5
    refs = [world.a.add("blob", size=size) for size in ("3", "2", "4")]
    world.vm["blobs"] = dict(zip(("shot", "note", "film"), refs))
    (warning,) = world.cross()[0].warnings
    assert "blob film of the VM is lost if it cannot be moved" in warning
    assert blobs.LARGEST <= kept_files.MOST


def test_a_xapi_that_has_not_all_of_it_fails_no_plan(world):
    named = affinity(world)

    def unknown(*_):
        raise failure("MESSAGE_METHOD_UNKNOWN", "message.get")

    world.a.handlers["message.get"] = unknown
    plan, problems = world.cross()
    assert problems == [] and any(named in text for text in plan.warnings)
