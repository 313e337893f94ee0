# SPDX-License-Identifier: LGPL-2.1-only
"""Plans, and every reason for which there is none."""

import pytest

from fake_pool import GIB, NULL, add_sr, add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.api import arguments
from storage_motion.api.arguments import Problems
from storage_motion.plan import planner
from storage_motion.plan.plan import Plan
from storage_motion.xapi.records import Records

NOBODY = "99999999-9999-9999-9999-999999999999"


class World:
    """Pool A with a1 and a2 and a VM of two disks on a1; pool B with b1 and b2."""

    def __init__(self):
        self.a, self.b = make_pool("A", ["a1", "a2"], shared=True), make_pool("B", ["b1", "b2"])
        self.sr = by_name(self.a, "SR", "a1-sr")
        self.vdis = [add_vdi(self.a, self.sr, 2 * GIB), add_vdi(self.a, self.sr, GIB)]
        self.vm_ref = add_vm(
            self.a, by_name(self.a, "host", "a1"), self.vdis, by_name(self.a, "network", "guests")
        )
        self.target = uuid_of(self.b, "SR", by_name(self.b, "SR", "b1-sr"))

    vm = property(lambda self: self.a.tables["VM"][self.vm_ref])
    disk = property(lambda self: self.a.tables["VDI"][self.vdis[0]])
    vif = property(lambda self: uuid_of(self.a, "VIF", self.vm["VIFs"][0]))

    def vdi(self, number):
        return uuid_of(self.a, "VDI", self.vdis[number])

    def cross(self, **changes):
        """The arguments of a good move to pool B, with changes ("x_y" for x-y; None leaves out)."""
        given = {
            "vm": self.vm["uuid"],
            "remote-master": "10.1.0.1",
            "remote-username": "root",
            "remote-password": "hush",
            "destination-sr-uuid": self.target,
            "vif:" + self.vif: uuid_of(self.b, "network", by_name(self.b, "network", "guests")),
        }
        return self._plan(given, changes, Records(self.b))

    def within(self, **changes):
        return self._plan({"vm": self.vm["uuid"]}, changes, None)

    def _plan(self, given, changes, view):
        for name, value in changes.items():
            given[name] = value
        given = {name: value for name, value in given.items() if value is not None}
        problems, source = Problems(), Records(self.a)
        request = arguments.read(given, problems)
        _, vm = planner.find_vm(request, source, problems)
        here = by_name(self.a, "host", "a1")
        plan = planner.make(request, source, view or source, vm, here, problems) if vm else None
        return plan, problems.details


@pytest.fixture
def world():
    return World()


def test_a_move_to_another_pool(world):
    plan, problems = world.cross()
    assert problems == []
    assert (plan.kind, plan.live, plan.destination_host_name, plan.master) == (
        "cross-pool",
        True,
        "b1",
        "https://10.1.0.1",
    )
    assert [disk.size for disk in plan.disks] == [GIB, 2 * GIB], "smallest first"
    assert plan.address == "10.0.0.1" and not plan.same_host and plan.check_cpu
    assert Plan.from_json(plan.to_json()) == plan
    assert "hush" not in str(plan.to_json())


def test_nothing_is_changed_by_planning(world):
    world.cross()
    world.within()
    assert world.a.calls == [] and world.b.calls == []


def test_a_move_within_the_pool_stays_on_its_host(world):
    plan, problems = world.within(
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))}
    )
    assert problems == [] and plan.kind == "in-pool" and plan.same_host and len(plan.disks) == 2


def test_a_disk_that_is_where_it_shall_be_stays(world):
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan, problems = world.within(**{"vdi:" + world.vdi(0): shared})
    assert (
        problems == []
        and [disk.key for disk in plan.disks] == [world.vdi(0)]
        and plan.staying == [world.vdi(1)]
    )


def test_an_existing_vdi_and_a_vif_as_what_is_meant(world):
    sr = by_name(world.b, "SR", "b1-sr")
    target = uuid_of(world.b, "VDI", add_vdi(world.b, sr, 2 * GIB))
    other = world.b.add(
        "VIF", network=by_name(world.b, "network", "guests"), device="0", MAC="", VM=NULL
    )
    plan, problems = world.cross(
        **{"vdi:" + world.vdi(0): target, "vif:" + world.vif: uuid_of(world.b, "VIF", other)}
    )
    assert problems == []
    assert [disk.target for disk in plan.disks] == ["", target]


def vm_field(name, value):
    return lambda world: world.vm.__setitem__(name, value)


def disk_field(name, value):
    return lambda world: world.disk.__setitem__(name, value)


@pytest.mark.parametrize(
    "prepare, part",
    [
        (vm_field("power_state", "Suspended"), "is Suspended"),
        (vm_field("is_a_template", True), "template"),
        (vm_field("is_control_domain", True), "control domain"),
        (vm_field("snapshots", ["OpaqueRef:1"]), "snapshots"),
        (vm_field("VGPUs", ["OpaqueRef:1"]), "GPU"),
        (vm_field("ha_always_run", True), "high availability"),
        (vm_field("other_config", {"sxm_migration": "m"}), "being moved already by migration m"),
        (vm_field("current_operations", {"OpaqueRef:t": "pool_migrate"}), "being migrated already"),
        (vm_field("blocked_operations", {"migrate_send": "not today"}), "not today"),
        (vm_field("VBDs", []), "no disks"),
        (disk_field("cbt_enabled", True), "changed block tracking"),
        (disk_field("sm_config", {"key_hash": "x"}), "encrypted"),
        (disk_field("sm_config", {"paused": "true"}), "paused"),
        (disk_field("on_boot", "reset"), "reset on boot"),
        (disk_field("sharable", True), "shared with other VMs"),
        (disk_field("VBDs", ["OpaqueRef:1", "OpaqueRef:2"]), "another VM"),
        (disk_field("missing", True), "missing"),
        (lambda world: world.a.tables["VBD"][world.vm["VBDs"][0]].update(mode="RO"), "read-only"),
        (
            lambda world: world.a.tables["VBD"][world.vm["VBDs"][0]].update(
                currently_attached=False
            ),
            "not plugged",
        ),
    ],
)
def test_what_cannot_be_moved_is_refused(world, prepare, part):
    prepare(world)
    plan, problems = world.cross()
    assert plan is None and any(part in problem for problem in problems), problems


def unplug(world):
    world.b.tables["PBD"][world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")]["PBDs"][0]][
        "currently_attached"
    ] = False


@pytest.mark.parametrize(
    "changes, prepare, argument, part",
    [
        ({"vm": NOBODY}, None, "vm", "no VM"),
        ({"vm": "nobody"}, None, "vm", "no VM"),
        ({"destination-sr-uuid": NOBODY}, None, "destination-sr-uuid", "no SR"),
        ({"destination-sr-uuid": None}, None, "vdi:", "no SR to go to"),
        ({"host": "nowhere"}, None, "host", "no host"),
        ({"host-uuid": NOBODY}, None, "host-uuid", "no host"),
        ({"host": "b2"}, None, "destination-sr-uuid", "not seen by host b2"),
        ({"remote-network": "nowhere"}, None, "remote-network", "no network"),
        ({"remote-network": "guests"}, None, "remote-network", "no address"),
        ({"vdi:" + NOBODY: NOBODY}, None, "vdi:" + NOBODY, "is not a disk"),
        ({"vif:" + NOBODY: NOBODY}, None, "vif:" + NOBODY, "is not an interface"),
        ({"live": "false"}, None, "live", "runs"),
        ({}, unplug, "host", "sees all SRs"),
        (
            {"host": "b1"},
            lambda world: world.b.tables["host"][by_name(world.b, "host", "b1")].update(
                enabled=False
            ),
            "host",
            "disabled",
        ),
        (
            {},
            lambda world: world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")].update(
                content_type="iso"
            ),
            "destination-sr-uuid",
            "not for disks",
        ),
        (
            {},
            lambda world: world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")].update(
                type="linstor"
            ),
            "destination-sr-uuid",
            "is of type linstor, to which nothing can be mirrored",
        ),
        (
            {},
            lambda world: world.a.tables["SR"][world.sr].update(type="iscsi"),
            "vdi:",
            "of type iscsi, from which nothing can be mirrored; a disk in an SR of type ext, file, "
            "lvm",
        ),
        (
            {},
            lambda world: world.b.add("VM", uuid=world.vm["uuid"], name_label="twin"),
            "vm",
            "has a VM",
        ),
        (
            {},
            lambda world: world.b.tables["pool"][sorted(world.b.tables["pool"])[0]].update(
                uuid=list(world.a.tables["pool"].values())[0]["uuid"]
            ),
            "remote-master",
            "own pool",
        ),
    ],
)
def test_what_cannot_be_done_names_its_argument(world, changes, prepare, argument, part):
    if prepare:
        prepare(world)
    plan, problems = world.cross(**changes)
    assert plan is None and any(
        problem.startswith(argument) and part in problem for problem in problems
    ), problems


def test_a_vif_without_a_network(world):
    plan, problems = world.cross(**{"vif:" + world.vif: None})
    assert plan is None and problems[0].startswith("vif:%s: interface 0" % world.vif)
    _, problems = world.cross(**{"vif:" + world.vif: NOBODY})
    assert "neither a network nor a VIF" in problems[0]


def test_many_wrong_arguments_are_named_at_once(world):
    world.disk["cbt_enabled"] = True
    _, problems = world.cross(
        **{
            "vif:" + world.vif: None,
            "host": "nowhere",
            "live": "perhaps",
            "bandwidth": "1",
            "vdi:" + world.vdi(1): NOBODY,
        }
    )
    assert {problem.split(":")[0] for problem in problems} == {
        "vif",
        "host",
        "live",
        "bandwidth",
        "vdi",
    }
    assert len(problems) >= 6


WORKING = "ext, file, lvm, lvmohba, lvmoiscsi, nfs, smb, xfs, zfs"


@pytest.mark.parametrize(
    "sr_type",
    [
        "cephfs",
        "glusterfs",
        "moosefs",
        "largeblock",
        "lvmofcoe",
        "linstor",
        "iscsi",
        "hba",
        "rawhba",
        "shm",
        "dummy",
    ],
)
def test_a_type_of_sr_that_is_not_supported_is_named_with_those_that_are(world, sr_type):
    """As source and as destination."""
    world.a.tables["SR"][world.sr].update(type=sr_type)
    _, problems = world.cross()
    assert len(problems) == 2
    for problem in problems:
        assert "of type %s, from which nothing can be mirrored" % sr_type in problem
        assert problem.endswith("a disk in an SR of type " + WORKING)
    world.a.tables["SR"][world.sr].update(type="zfs")
    world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")].update(type=sr_type)
    (problem,) = world.cross()[1]
    assert "is of type %s, to which nothing can be mirrored" % sr_type in problem
    assert problem.endswith("an SR of type " + WORKING)


@pytest.mark.parametrize(
    "sr_type, state, refused",
    [
        ("lvm", "Running", True),
        ("lvmohba", "Running", True),
        ("lvm", "Halted", False),
        ("ext", "Running", False),
    ],
)
def test_a_raw_volume_of_which_sm_takes_no_snapshot(world, sr_type, state, refused):
    world.a.tables["SR"][world.sr].update(type=sr_type)
    world.disk["sm_config"] = {"type": "raw"}
    world.vm["power_state"] = state
    plan, problems = world.cross()
    assert (plan is None) == refused and len(problems) == refused
    if refused:
        assert "and raw, of which SM takes no snapshot there; shut the VM down" in problems[0]


def test_data_counts_the_whole_chain(world):
    base = add_vdi(world.a, world.sr, 2 * GIB, physical_utilisation=str(GIB // 4))
    world.disk.update(
        sm_config={"vhd-parent": uuid_of(world.a, "VDI", base)}, physical_utilisation=str(GIB // 4)
    )
    plan, _ = world.cross()
    assert plan.disks[1].data == GIB // 2


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"virtual_size": str(GIB)}, "bytes"),
        ({"VBDs": ["OpaqueRef:1"]}, "in use"),
        ({"read_only": True}, "read-only"),
        ({"sm_config": {"host_OpaqueRef:1": "RW"}}, "in use"),
        ({"is_a_snapshot": True}, "snapshot"),
    ],
)
def test_a_target_that_cannot_be_filled(world, changes, part):
    ref = add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB)
    world.b.tables["VDI"][ref].update(changes)
    _, problems = world.cross(**{"vdi:" + world.vdi(0): uuid_of(world.b, "VDI", ref)})
    assert any(
        problem.startswith("vdi:" + world.vdi(0)) and part in problem for problem in problems
    ), problems


def test_one_target_for_two_disks(world):
    world.a.tables["VDI"][world.vdis[1]]["virtual_size"] = str(2 * GIB)
    target = uuid_of(world.b, "VDI", add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB))
    _, problems = world.cross(**{"vdi:" + world.vdi(0): target, "vdi:" + world.vdi(1): target})
    assert any("a VDI for each disk" in problem for problem in problems)


def test_within_the_pool_something_has_to_move(world):
    _, problems = world.within()
    assert problems[0].startswith("destination-sr-uuid: is missing")
    _, problems = world.within(**{"destination-sr-uuid": uuid_of(world.a, "SR", world.sr)})
    assert "every disk is there already" in problems[0]


def test_a_disk_cannot_stay_behind(world):
    far = uuid_of(world.a, "SR", by_name(world.a, "SR", "a2-sr"))
    _, problems = world.within(**{"host": "a2", "vdi:" + world.vdi(0): far})
    assert problems[0].startswith("vdi:" + world.vdi(1)) and "does not see" in problems[0]


def test_networks_stay_within_the_pool(world):
    other = uuid_of(world.a, "network", by_name(world.a, "network", "management"))
    _, problems = world.within(
        **{
            "destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared")),
            "vif:" + world.vif: other,
        }
    )
    assert problems[0].startswith("vif:" + world.vif)


def test_a_cd_is_ejected_where_its_sr_is_not_seen(world):
    iso = add_sr(world.a, "iso", [by_name(world.a, "host", "a1")], content_type="iso")
    cd = add_vdi(world.a, iso)
    world.vm["VBDs"].append(
        world.a.add(
            "VBD",
            VM=world.vm_ref,
            VDI=cd,
            type="CD",
            empty=False,
            userdevice="3",
            mode="RO",
            device="xvdd",
            currently_attached=True,
        )
    )
    plan, _ = world.cross()
    assert [(one.vdi, one.eject) for one in plan.cds] == [
        (uuid_of(world.a, "VDI", cd), True)
    ] and len(plan.disks) == 2
    plan, _ = world.within(
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))}
    )
    assert [one.eject for one in plan.cds] == [False]


def test_a_halted_vm_is_at_home_where_its_disks_are_seen(world):
    world.vm.update(power_state="Halted", resident_on=NULL)
    view = Records(world.a)
    assert planner.home(view, world.vm, by_name(world.a, "host", "a2")) == by_name(
        world.a, "host", "a1"
    )
    plan, problems = world.cross()
    assert problems == [] and not plan.live and not plan.check_cpu


def test_a_name_that_two_vms_have(world):
    add_vm(world.a, by_name(world.a, "host", "a1"), [], by_name(world.a, "network", "guests"))
    _, problems = world.cross(vm="web")
    assert problems == ["vm: 2 VMs are called 'web'; the UUID of one"]


def test_a_host_with_ipv6_alone(world):
    b1 = by_name(world.b, "host", "b1")
    for pif in world.b.tables["PIF"].values():
        if pif["host"] == b1:
            pif.update(IP="", IPv6=["2001:db8::1/64"])
    plan, problems = world.cross()
    assert plan is None and problems == [
        "remote-network: host b1 has only IPv6 addresses on its management network, and the data "
        "takes IPv4; "
        "a network on which it has an IPv4 address"
    ]
