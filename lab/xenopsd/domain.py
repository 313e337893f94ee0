# SPDX-License-Identifier: LGPL-2.1-only
"""A domain: the process of `lab.guest` that stands in for it, and its control socket."""

import contextlib
import json
import os
import sys
import time

from lab import patience
from lab.guest import control
from lab.xenopsd import process
from lab.xenopsd.errors import XenopsError, internal

BUILD = 60.0 * patience.TIMES
"""Seconds until a new guest must serve its control socket."""
RUN = 300.0
"""Seconds until a guest must run on its disks: at its first start it reads and fills them."""
SUSPEND = 120.0
STATUS = 5.0 * patience.TIMES
KILL = 30.0
POLL = 0.02 * patience.TIMES


class Domains:
    """The guests of one host. Each is kept in its VM's record, under "domain"."""

    def __init__(self, root):
        self._sockets = os.path.join(root, "run/xenopsd")
        self._configs = os.path.join(root, "var/lib/xenopsd/domains")
        self._log = os.path.join(root, "var/log/guest.log")
        os.makedirs(self._sockets, exist_ok=True)
        os.makedirs(self._configs, exist_ok=True)
        os.makedirs(os.path.dirname(self._log), exist_ok=True)

    def create(self, identity, domid, settings):
        """Start a guest, paused and without disks, and wait until it answers; the domain's
        record."""
        socket = self._socket(domid)
        config = os.path.join(self._configs, "%d.json" % domid)
        with open(config, "w") as stream:
            json.dump({"id": identity, "control": socket, "settings": settings}, stream)
        pid, started = process.start([sys.executable, "-m", "lab.guest", config], self._log)
        domain = {
            "domid": domid,
            "pid": pid,
            "started": started,
            "control": socket,
            "config": config,
        }
        deadline = time.monotonic() + BUILD
        while not self._answers(domain):
            if not self.alive(domain) or time.monotonic() > deadline:
                self.destroy(domain)
                raise internal("the guest did not start: see %s" % self._log)
            time.sleep(POLL)
        return domain

    def alive(self, domain):
        """True while its process runs."""
        return bool(domain) and process.alive(domain["pid"], domain["started"])

    def wait(self, domain):
        """Wait until its process ends, however long that takes."""
        process.wait(domain["pid"], domain["started"], None)

    def restore(self, domain, memory):
        """Give it the memory of the guest that it shall be."""
        control.ask(domain["control"], "restore", RUN, raw=memory)

    def run(self, domain, disks, excluded=0.0):
        """Unpause it on these disks: [{"device", "socket", "rw"}]; `excluded`: seconds that are not
        part of its pause."""
        try:
            control.ask(domain["control"], "run", RUN, disks=disks, excluded=excluded)
        except (control.GuestError, OSError) as error:
            raise internal("the guest does not run: %s" % error)

    def suspend(self, domain):
        """Stop it with nothing outstanding; its memory, as bytes."""
        try:
            return control.ask(domain["control"], "suspend", SUSPEND)[1]
        except (control.GuestError, OSError):
            raise XenopsError("Failed_to_suspend", str(domain["domid"]), SUSPEND)

    def status(self, domain):
        """What it counted, or {} if it does not answer now."""
        try:
            return control.ask(domain["control"], "status", STATUS)[0]
        except (control.GuestError, OSError):
            return {}

    def destroy(self, domain):
        """End its process, whatever it does, and remove its files."""
        if not process.kill(domain["pid"], domain["started"], KILL):
            raise internal("guest %d does not die" % domain["pid"])
        for path in (domain["control"], domain["config"]):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def end_unknown(self, known):
        """End every guest that is none of `known` (the domains of the records): xenopsd was killed
        before it had noted it."""
        configs = {domain["config"] for domain in known if domain}
        for name in os.listdir(self._configs):
            config = os.path.join(self._configs, name)
            if config not in configs:
                socket = self._socket(int(os.path.splitext(name)[0]))
                for pid in process.mentioning(config):
                    self.destroy(
                        {
                            "domid": -1,
                            "pid": pid,
                            "started": process.start_time(pid),
                            "control": socket,
                            "config": config,
                        }
                    )
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(config)

    def _socket(self, domid):
        return os.path.join(self._sockets, "guest%d" % domid)

    @staticmethod
    def _answers(domain):
        try:
            control.ask(domain["control"], "status", STATUS)
        except (OSError, control.GuestError):
            return False
        return True
