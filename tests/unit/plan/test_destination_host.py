# SPDX-License-Identifier: LGPL-2.1-only
"""Which host a VM goes to, and the address there."""

import pytest

from fake_pool import by_name
from plan_world import NOBODY, World, is_refused


@pytest.fixture
def world():
    return World()


def unplug(world):
    world.b.tables["PBD"][world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")]["PBDs"][0]][
        "currently_attached"
    ] = False


@pytest.mark.parametrize(
    "changes, prepare, argument, part",
    [
        ({"host": "nowhere"}, None, "host", "no host"),
        ({"host-uuid": NOBODY}, None, "host-uuid", "no host"),
        ({"host": "b2"}, None, "destination-sr-uuid", "not seen by host b2"),
        ({"remote-network": "nowhere"}, None, "remote-network", "no network"),
        ({"remote-network": "guests"}, None, "remote-network", "no address"),
        ({}, unplug, "host", "sees all SRs"),
        (
            {"host": "b1"},
            lambda world: world.b.tables["host"][by_name(world.b, "host", "b1")].update(
                enabled=False
            ),
            "host",
            "disabled",
        ),
    ],
)
def test_a_host_or_network_that_cannot_be_names_its_argument(
    world, changes, prepare, argument, part
):
    if prepare:
        prepare(world)
    assert is_refused(world.cross(**changes), argument, part)


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
