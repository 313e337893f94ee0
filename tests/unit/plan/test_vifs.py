# SPDX-License-Identifier: LGPL-2.1-only
"""The network of each VIF at the destination."""

import pytest

from fake_pool import by_name, uuid_of
from plan_world import NOBODY, World


@pytest.fixture
def world():
    return World()


def test_a_vif_without_a_network(world):
    plan, problems = world.cross(**{"vif:" + world.vif: None})
    assert plan is None and problems[0].startswith("vif:%s: interface 0" % world.vif)
    _, problems = world.cross(**{"vif:" + world.vif: NOBODY})
    assert "neither a network nor a VIF" in problems[0]


def test_networks_stay_within_the_pool(world):
    other = uuid_of(world.a, "network", by_name(world.a, "network", "management"))
    _, problems = world.within(
        **{
            "destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared")),
            "vif:" + world.vif: other,
        }
    )
    assert problems[0].startswith("vif:" + world.vif)
