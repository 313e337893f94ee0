# SPDX-License-Identifier: LGPL-2.1-only
"""xapi is asked before anything is changed, and what it says reaches the user with what to do."""

import re
import types

import pytest

from fake_pool import add_vdi, add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.api import arguments
from storage_motion.api.arguments import Problems
from storage_motion.errors import Refused, TaskFailed
from storage_motion.migration import xapi_verdict
from storage_motion.plan import planner
from storage_motion.xapi.records import Records

TOKEN = {
    "session_id": "OpaqueRef:s",
    "host": "h",
    "xenops": "http://10.0.0.1/",
    "SM": "",
    "master": "",
}


class World:
    """Pools A and B, a VM of A, and what is asked of them."""

    def __init__(self, monkeypatch):
        self.a, self.b = make_pool("A", ["a1"], shared=True), make_pool("B", ["b1"])
        self.asked, self.ended = [], []
        monkeypatch.setattr(xapi_verdict, "end", lambda session, ref: self.ended.append(ref))
        monkeypatch.setattr(
            xapi_verdict.remap, "rehearse", lambda *_: self.asked.append(("rehearse",))
        )
        for pool in (self.a, self.b):
            pool.handlers["VM.assert_operation_valid"] = self._answer("assert_operation_valid")
            pool.handlers["VM.assert_can_migrate"] = self._answer("assert_can_migrate")
            pool.handlers["host.migrate_receive"] = self._answer("migrate_receive", TOKEN)
        self.answers = {}
        self.vdis = [add_vdi(self.a, by_name(self.a, "SR", "a1-sr"))]
        self.vm = add_vm(
            self.a, by_name(self.a, "host", "a1"), self.vdis, by_name(self.a, "network", "guests")
        )

    def _answer(self, name, value=""):
        def call(*given):
            self.asked.append((name,) + given)
            if name in self.answers:
                raise self.answers[name]
            return value

        return call

    def plan(self, cross_pool=True, **more):
        """The plan of a move to the other pool, or to the shared SR of this one."""
        there = self.b if cross_pool else self.a
        vif = self.a.tables["VM"][self.vm]["VIFs"][0]
        given = dict(
            {
                "vm": uuid_of(self.a, "VM", self.vm),
                "destination-sr-uuid": uuid_of(
                    there, "SR", by_name(there, "SR", "b1-sr" if cross_pool else "shared")
                ),
            },
            **more,
        )
        if cross_pool:
            given.update(
                {
                    "remote-master": "10.1.0.1",
                    "remote-username": "root",
                    "remote-password": "x",
                    "vif:" + uuid_of(self.a, "VIF", vif): uuid_of(
                        self.b, "network", by_name(self.b, "network", "guests")
                    ),
                }
            )
        problems, source = Problems(), Records(self.a)
        request = arguments.read(given, problems)
        _, vm = planner.find_vm(request, source, problems)
        made = planner.make(
            request,
            source,
            Records(self.b) if cross_pool else source,
            vm,
            by_name(self.a, "host", "a1"),
            problems,
        )
        assert made, problems.details
        return made

    def ask(self, plan):
        """Ask, about a plan."""
        xapi_verdict.ask(self.a, self.b if plan.cross_pool else self.a, plan)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_what_is_asked_of_another_pool(world):
    world.ask(world.plan())
    assert [name for name, *_ in world.asked] == [
        "assert_operation_valid",
        "migrate_receive",
        "assert_can_migrate",
        "rehearse",
    ]
    assert world.asked[0][1:] == (world.vm, "migrate_send")
    _, vm, token, live, vdis, vifs, options, groups = world.asked[2]
    assert (vm, token, live, options, groups) == (world.vm, TOKEN, True, {}, {})
    assert vdis == {world.vdis[0]: by_name(world.b, "SR", "b1-sr")}
    assert vifs == {
        world.a.tables["VM"][world.vm]["VIFs"][0]: by_name(world.b, "network", "guests")
    }
    assert world.ended == ["OpaqueRef:s"] and world.a.calls == world.b.calls == []


def test_of_virtual_gpus_their_groups_are_asked(world):
    group, there = [
        pool.add("GPU_group", GPU_types=["10de/20b5"], name_label="GPUs")
        for pool in (world.a, world.b)
    ]
    vgpu = world.a.add("VGPU", GPU_group=group, device="0", extra_args="")
    world.a.tables["VM"][world.vm].update(power_state="Halted", VGPUs=[vgpu])
    world.ask(world.plan())
    assert world.asked[2][7] == {vgpu: there}


def test_within_a_pool_no_networks_are_mapped(world):
    world.ask(world.plan(cross_pool=False))
    assert [name for name, *_ in world.asked] == [
        "assert_operation_valid",
        "migrate_receive",
        "assert_can_migrate",
    ]
    assert world.asked[2][5] == {}


def test_processors_are_not_compared_by_force(world):
    world.ask(world.plan(force="true"))
    assert world.asked[2][6] == {"force": "true"}


@pytest.mark.parametrize(
    "where", ["assert_operation_valid", "migrate_receive", "assert_can_migrate"]
)
def test_a_refusal_is_told_with_what_to_do(world, where):
    world.answers[where] = failure("HOST_NOT_ENOUGH_PCPUS", "64", "8")
    with pytest.raises(Refused) as raised:
        world.ask(world.plan())
    assert raised.value.failure() == [
        "SXM_REFUSED",
        "host b1 does not take VM web",
        "HOST_NOT_ENOUGH_PCPUS 64 8",
        "name a host with more processors, or give the VM fewer VCPUs",
    ]
    assert len(world.ended) == (where == "assert_can_migrate"), "the session of the token is ended"


@pytest.mark.parametrize(
    "code, what_to_do",
    [
        ("VM_HAS_PCI_ATTACHED", "detach the device, or shut the VM down and move it halted"),
        ("VM_HAS_VUSBS", "a halted one neither: take them away (xe vusb-unplug"),
    ],
)
@pytest.mark.parametrize("cross_pool", [True, False])
def test_a_device_of_the_host_is_refused_by_xapi(world, code, what_to_do, cross_pool):
    """xapi_vm_lifecycle.ml: a PCI one is attached while the VM runs, a virtual USB one is its
    always."""
    world.answers["assert_operation_valid"] = failure(code, world.vm)
    with pytest.raises(Refused) as raised:
        world.ask(world.plan(cross_pool))
    refused, _, said, remedy = raised.value.failure()
    assert refused == "SXM_REFUSED" and said.startswith(code) and what_to_do in remedy


def test_a_disk_that_is_tracked_is_refused_last_and_taken_where_that_is_renewed(world):
    """xapi_vm_migrate.ml, assert_can_migrate: all else is looked at before."""
    world.answers["assert_can_migrate"] = failure("VDI_CBT_ENABLED", world.vdis[0])
    with pytest.raises(Refused) as raised:
        world.ask(world.plan())
    assert raised.value.details[2].startswith("say cbt=renew")
    world.a.tables["VDI"][world.vdis[0]]["cbt_enabled"] = True
    world.ask(world.plan(cbt="renew"))
    assert world.asked[-1] == ("rehearse",)
    world.answers["assert_can_migrate"] = failure("VDI_IS_ENCRYPTED", world.vdis[0])
    with pytest.raises(Refused):
        world.ask(world.plan(cbt="renew"))


def test_memory_is_that_of_the_host_and_not_of_its_master(world):
    world.b.handlers["host.compute_free_memory"] = lambda host: str(1 << 30)
    with pytest.raises(Refused) as raised:
        world.ask(world.plan())
    assert raised.value.details[1:] == [
        "HOST_NOT_ENOUGH_FREE_MEMORY %d %d" % ((1 << 30) + (1 << 20), 1 << 30),
        "free memory there, or name another host",
    ]
    world.b.handlers["host.compute_free_memory"] = lambda host: str((1 << 30) + (1 << 20))
    world.ask(world.plan())


def test_within_a_pool_it_is_asked_again_before_the_move(world):
    plan = world.plan(cross_pool=False)
    m = types.SimpleNamespace(source=world.a, destination=world.a, plan=plan, receiving_host=TOKEN)
    xapi_verdict.ask_again(m)
    assert [name for name, *_ in world.asked] == ["assert_can_migrate"] and world.asked[0][
        2
    ] == TOKEN
    world.answers["assert_can_migrate"] = failure("HOST_NOT_ENOUGH_FREE_MEMORY", "2", "1")
    with pytest.raises(Refused):
        xapi_verdict.ask_again(m)


def test_so_is_that_of_an_import(world, monkeypatch):
    def rehearse(*_):
        raise TaskFailed("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", "r", "1", "1")

    monkeypatch.setattr(xapi_verdict.remap, "rehearse", rehearse)
    with pytest.raises(Refused) as raised:
        world.ask(world.plan())
    assert (
        raised.value.details[1].startswith("VM_TO_IMPORT_IS_NOT_NEWER_VERSION r")
        and "remove that one first" in raised.value.details[2]
    )


def test_advice_is_for_codes_that_xapi_has():
    assert all(re.match(r"[A-Z_]+\Z", code) and text for code, text in xapi_verdict.ADVICE.items())
