# SPDX-License-Identifier: LGPL-2.1-only
"""A host of the lab: starts and ends its daemons, asks its xenopsd, and finds its guests."""

import contextlib
import json
import os

from lab.pools.guest import Guest
from lab.xapi import startup
from lab.xenopsd import wire

ANSWER = 30.0
"""Seconds that its xenopsd may take for an answer."""


class Host:
    """One host: its root directory, its daemons."""

    def __init__(self, state, daemons):
        self._daemons = daemons
        self.name, self.root, self.uuid = (
            state["name"],
            state["root"],
            state["config"]["host"]["uuid"],
        )
        self.address, self.http_port, self.https_port = (
            state["config"]["host"]["address"],
            state["config"]["http_port"],
            state["config"]["https_port"],
        )
        self.role = state["config"]["role"]

    def start_xapi(self):
        """Start xapi and wait until it serves."""
        self._daemons.start(
            self.name + "/xapi", "lab.xapi", self.root, self.root + "/run/xapi.ready"
        )

    def start_xenopsd(self):
        """Start xenopsd and wait until it serves."""
        self._daemons.start(
            self.name + "/xenopsd", "lab.xenopsd", self.root, self.root + "/run/xenopsd.sock"
        )

    def stop_xapi(self):
        """End xapi as systemd does: it writes its database first."""
        self._daemons.end(self.name + "/xapi")

    @property
    def is_deaf(self):
        """Whether its xapi hears nothing of its xenopsd any more, until it is started again
        (lab/xapi/startup.py)."""
        try:
            with open(self.root + startup.EVENTS) as stream:
                return stream.read() == startup.DEAF
        except FileNotFoundError:
            return False  # it has not been started since the host had no power

    def kill(self, daemon):
        """kill -9 its "xapi" or "xenopsd"."""
        self._daemons.kill("%s/%s" % (self.name, daemon))

    def xenopsd(self, method, **members):
        """Call this host's xenopsd."""
        return wire.call_unix(
            self.root + "/run/xenopsd.sock", "/", method, dict(members, debug_info="lab"), ANSWER
        )

    def domain(self, vm):
        """The domain of the VM with this uuid, as its xenopsd wrote it down, or None."""
        try:
            with open("%s/var/lib/xenopsd/%s.json" % (self.root, vm)) as stream:
                return json.load(stream)["domain"]
        except FileNotFoundError:
            return None

    def guest(self, vm):
        """The Guest of the VM with this uuid, which runs here."""
        return Guest(self.domain(vm)["control"])

    def open_ports(self):
        """What its firewall admits for migrations: ["tcp/PORT", ...]."""
        try:
            with open(self.root + "/etc/sysconfig/lab-firewall.json") as stream:
                return json.load(stream)
        except FileNotFoundError:
            return []

    def at_switch(self, script):
        """Install `script` (text) as this host's etc/lab-at-switch; None removes it."""
        path = self.root + "/etc/lab-at-switch"
        if script is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        with open(path, "w") as stream:
            stream.write(script)
        os.chmod(path, 0o755)
