# SPDX-License-Identifier: LGPL-2.1-only
"""A pool of the lab, by XenAPI: what it is furnished with, and its VMs."""

import os

import XenAPI

from lab.pools import vms

SR_SIZE = 10 << 30
GUEST_NETWORK = "guests"


class Pool:
    """One pool: its hosts, and a XenAPI session with its master."""

    def __init__(self, name, hosts, state):
        self.name, self.hosts, self._state = name, hosts, state
        self.master = hosts[0]
        self.password = state["password"]
        self._session = None

    @property
    def url(self):
        """Where its master's XenAPI is."""
        return "https://%s:%d" % (self.master.address, self.master.https_port)

    def session(self):
        """A new XenAPI session, logged in as root with the password."""
        session = XenAPI.Session(
            "http://%s:%d" % (self.master.address, self.master.http_port), ignore_ssl=True
        )
        session.xenapi.login_with_password("root", self.password, "1.0", "lab")
        return session

    @property
    def xapi(self):
        """XenAPI, logged in."""
        self._session = self._session or self.session()
        return self._session.xenapi

    def forget_session(self):
        """After its master's xapi was killed: log in anew at the next use."""
        self._session = None

    def host(self, name):
        """The host of this name."""
        return next(host for host in self.hosts if host.name == name)

    def host_ref(self, name):
        """Its ref."""
        return self.xapi.host.get_by_uuid(self.host(name).uuid)

    def sr(self, *names):
        """The ref of an SR: `sr("a1", "fast")`, or `sr("shared")`."""
        return self.xapi.SR.get_by_name_label("-".join(names))[0]

    def network(self, name=GUEST_NETWORK):
        """The ref of a network, by its name."""
        return self.xapi.network.get_by_name_label(name)[0]

    def create_vm(self, name, disks, guest=None):
        """A halted VM: see vms.create_vm; its ref."""
        return vms.create_vm(self.xapi, name, disks, self.network(), guest)

    def start_vm(self, vm, host):
        """Start the VM (a ref) on the host of this name; the uuid of the VM."""
        self.xapi.VM.start_on(vm, self.host_ref(host), False, False)
        return self.xapi.VM.get_uuid(vm)

    def furnish(self, plan):
        """Create what the pool shall have: local SRs, a shared one, a network for guests."""
        for host in self.hosts:
            for name in plan.local:
                self._create_sr(
                    host, "%s-%s" % (host.name, name), os.path.join(host.root, "srs", name), False
                )
        if plan.shared:
            self._create_sr(
                self.master, "shared", os.path.join(self._state["directory"], "shared"), True
            )
        self.xapi.network.create(
            {
                "name_label": GUEST_NETWORK,
                "name_description": "Of the lab's guests",
                "MTU": "1500",
                "other_config": {},
                "tags": [],
                "managed": True,
            }
        )
        self.xapi.pool.sync_database()

    def _create_sr(self, host, label, location, shared):
        os.makedirs(location)
        device_config = dict(self._state["device_config"], location=location)
        self.xapi.SR.create(
            self.host_ref(host.name),
            device_config,
            str(SR_SIZE),
            label,
            "",
            "file",
            "user",
            shared,
            {},
        )
