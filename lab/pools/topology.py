# SPDX-License-Identifier: LGPL-2.1-only
"""Which pools, hosts and storage a lab has, before anything is started."""

import collections
import random
import socket

LOCAL_SRS = ("fast", "big")

PoolPlan = collections.namedtuple("PoolPlan", "name hosts shared local")
PoolPlan.__new__.__defaults__ = (LOCAL_SRS,)
PoolPlan.__doc__ = """`hosts`: names, the master first; `shared`: whether the hosts share one more SR; `local`: the name of each host's own SRs."""  # noqa: E501

DEFAULT = (PoolPlan("A", ("a1", "a2"), True), PoolPlan("B", ("b1",), False))

Endpoint = collections.namedtuple("Endpoint", "address http_port https_port")


def endpoints(names):
    """A loopback address of its own and two free ports for each host: {name: Endpoint}."""
    network = random.randrange(1, 255)
    chosen = {}
    for number, name in enumerate(names, 1):
        address = "127.0.%d.%d" % (network, number)
        with socket.socket() as first, socket.socket() as second:
            # both are bound before either is let go, so that they differ
            first.bind((address, 0))
            second.bind((address, 0))
            chosen[name] = Endpoint(address, first.getsockname()[1], second.getsockname()[1])
    return chosen
