# SPDX-License-Identifier: LGPL-2.1-only
"""One move of the demo: the administrator's command, the bars while it runs, and the verdict."""

import json
import subprocess
import threading
import time

from lab.demo import screen
from lab.demo.verdict import Verdict
from lab.pools.daemons import environment
from storage_motion.cli.screen import Screen
from storage_motion.cli.watched import Watched

MOVE_TIMEOUT = 120.0
POLL = 1.0
"""Seconds between two looks: each runs the plugin once in the host's dom0."""


class Move:
    """A VM on its way from one host to another, or to another SR."""

    def __init__(self, lab, title, vm, source_pool, source_host, pool, host, sr, vif_network=None):
        """`vm`: its ref in `source_pool`; `sr`: the name of one of the SRs of `host`;
        `vif_network`: the name of the network that its VIFs go to, in another pool."""
        self.lab, self.title, self.vm = lab, title, vm
        self.source_pool, self.pool = source_pool, pool
        self.source, self.host = source_pool.host(source_host), pool.host(host)
        self.sr, self.vif_network = sr, vif_network
        self.uuid = source_pool.xapi.VM.get_uuid(vm)

    def run(self):
        """Move it. Returns whether all that was promised holds."""
        screen.chapter(self.title)
        verdict = Verdict(self)
        words = self._words()
        screen.command(words)
        # dom0's own xe: `xe` alone, on a host, is /usr/bin/xe.
        arguments = [self.source.root + "/usr/bin/xe"] + words[0].split()[1:] + words[1:]
        running = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(self.source.root),
        )
        output = {}
        reader = threading.Thread(
            target=lambda: output.update(
                zip(("out", "err"), running.communicate(timeout=MOVE_TIMEOUT))
            )
        )
        reader.start()
        self._watch(reader)
        reader.join(MOVE_TIMEOUT)
        if running.returncode != 0:
            screen.verdict(
                False,
                "the command",
                "exit %s: %s" % (running.returncode, output.get("err", b"").decode().strip()),
            )
            return False
        return verdict.tell(json.loads(output["out"].decode()))

    def _words(self):
        """The command, a list of words that belong on one line each."""
        words = [
            "xe host-call-plugin",
            "host-uuid=%s" % self.source.uuid,
            "plugin=sxm.py",
            "fn=migrate",
            "args:vm=%s" % self.uuid,
        ]
        if self.pool is not self.source_pool:
            words += [
                "args:remote-master=%s:%d"
                % (self.pool.master.address, self.pool.master.https_port),
                "args:remote-username=root",
                "args:remote-password=%s" % self.pool.password,
            ]
        elif self.host is not self.source:
            words.append("args:host-uuid=%s" % self.host.uuid)
        words.append(
            "args:destination-sr-uuid=%s"
            % self.pool.xapi.SR.get_uuid(self.pool.sr(self.host.name, self.sr))
        )
        if self.vif_network:
            network = self.pool.xapi.network.get_uuid(self.pool.network(self.vif_network))
            for vif in self.source_pool.xapi.VM.get_VIFs(self.vm):
                words.append("args:vif:%s=%s" % (self.source_pool.xapi.VIF.get_uuid(vif), network))
        return words

    def _watch(self, reader):
        """Draw the bars until the command has ended."""
        xapi = self.source_pool.session().xenapi
        host = xapi.host.get_by_uuid(self.source.uuid)
        watched = None
        with Screen(screen.console) as shown:
            while reader.is_alive():
                if watched is None:
                    found = json.loads(
                        xapi.host.call_plugin(host, "sxm.py", "list", {"local": "true"})
                    )["migrations"]
                    watched = next(
                        (
                            Watched(one["migration"])
                            for one in found
                            if one["vm"] == self.uuid and one["state"] == "running"
                        ),
                        None,
                    )
                else:
                    self._draw(shown, xapi, host, watched)
                reader.join(POLL)
            if watched:
                self._draw(shown, xapi, host, watched)
        xapi.session.logout()

    def _draw(self, shown, xapi, host, watched):
        status = xapi.host.call_plugin(host, "sxm.py", "status", {"migration": watched.id})
        watched.see(time.monotonic(), json.loads(status))
        shown.draw([watched])
