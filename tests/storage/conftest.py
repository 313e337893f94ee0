# SPDX-License-Identifier: LGPL-2.1-only
"""The tests in here run in the storage guest only: `make test-storage`."""

import os
import socket

import pytest

IN_GUEST = socket.gethostname() == "storage-guest"

if not IN_GUEST:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def five():
    from five import PLAN, RELEASE, TYPES, Five
    from lab.dom0 import patience
    from lab.pools import at_switch
    from lab.pools.lab import Lab
    from lab.storage_guest import services

    services.start(TYPES)
    python = os.path.join(os.path.dirname(services.__file__), "python")
    with Lab(PLAN, release=RELEASE, python=python) as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
            patience.install(host.root)
        five = Five(lab)
        yield five
        five.unplug()


@pytest.fixture
def link(five):
    """The link that disks go over: slow, until `heal`, so that a test can do something in mid-copy
    on a machine of any pace."""
    from five import RATE
    from lab.pools.link import Link

    with Link(five.lab.hosts) as link:
        link.limit(RATE)
        yield link
