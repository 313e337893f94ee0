# SPDX-License-Identifier: LGPL-2.1-only
"""Leads the connections of movers over a relay of the lab (lab.pools.link), which can cut them and
slow them down.

Runs before the product on a host (lab.dom0.before) while a test asks for it. `/etc/lab-relay.json`
says where the relay is: [address, port]. What it is told first, in one line, is where the
connection was to go; after that it passes bytes on.
"""

import json

PLACE = "/etc/lab-relay.json"
MOVER = "storage_motion.source.mover"


def begin(root, address, port):
    """Have the movers that start from now on at `root` connect over the relay at (address,
    port)."""
    from lab.dom0 import before

    before.install(root, __file__, PLACE, json.dumps([address, port]))


def end(root):
    """Movers that start from now on connect directly."""
    from lab.dom0 import before

    before.remove(root, __file__, PLACE)


def _lead_over(relay):
    import socket

    direct = socket.create_connection

    def create_connection(address, *args, **kwargs):
        connection = direct(relay, *args, **kwargs)
        connection.sendall(("%s %d\n" % address[:2]).encode())
        return connection

    socket.create_connection = create_connection


if __name__.startswith("lab_before."):
    from sitecustomize import runs, setting

    _relay = setting(PLACE)
    if _relay and runs(MOVER):
        _lead_over(tuple(json.loads(_relay)))
