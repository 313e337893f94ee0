# SPDX-License-Identifier: LGPL-2.1-only
"""A link of the kernel's: a network of its own, whose loopback carries so many bytes a second,
first in, first out, as a host's card does. So TCP divides it, as it does a real one; bench/link.py,
which gives each connection its turn, would hide that.

It wants root, and goes with the processes of its stage.
"""

import os
import sys

from tests.eventually import eventually

PACKET = 1500  # bytes, as on Ethernet
QUEUE = 1000 * PACKET  # bytes that wait for the link: as many packets as wait for a card
BURST = 131072  # bytes that may go at once: more than TCP gives the card in one piece, 64 KiB

SET_UP = (
    "ip link set lo up mtu %d && tc qdisc add dev lo root tbf rate %dbit burst %d limit %d"
    " && touch %s && exec sleep infinity"
)
WITHIN = '#!/bin/sh\nexec nsenter --net=/proc/%d/ns/net %s "$@"\n'


def python_within(stage, rate):
    """The path of a program that is a Python in such a network, of `rate` bytes a second. What it
    runs meets others of the same network at 127.0.0.1, and all of the machine at unix sockets."""
    ready, path = stage.path("network"), stage.path("python-within")
    script = SET_UP % (PACKET, rate * 8, BURST, QUEUE, ready)
    network = stage.start(["unshare", "--net", "sh", "-c", script])
    eventually(
        lambda: network.poll() is not None or os.path.exists(ready), "there is a network of its own"
    )
    if network.poll() is not None:
        raise RuntimeError("no network of its own: %s" % stage.complaints())
    with open(path, "w") as target:
        target.write(WITHIN % (network.pid, sys.executable))
    os.chmod(path, 0o700)
    return path
