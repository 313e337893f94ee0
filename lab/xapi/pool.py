# SPDX-License-Identifier: LGPL-2.1-only
"""The pool, as its master's xapi holds it: the database and everything that acts on it."""

import threading

from lab.xapi.database import Database
from lab.xapi.failures import Failure
from lab.xapi.forwarding import Peer
from lab.xapi.message_files import MessageFiles
from lab.xapi.on_disk import STATE, Store
from lab.xapi.schema import NULL
from lab.xapi.sessions import Sessions
from lab.xapi.storage import Storage
from lab.xapi.tasks import Tasks

# keys of a host's other_config: real hosts all have 80 and 443
HTTP_PORT, HTTPS_PORT = "lab-http-port", "lab-https-port"


class Pool:
    """`host_work`: what runs on the master itself; `rrdd`: the master's."""

    def __init__(self, config, host_work, rrdd):
        self.config = config
        self.rrdd = rrdd
        self.stopping = threading.Event()
        self.database = Database()
        self.store = Store(self.database, config.root + STATE, config.database_flush_seconds)
        self.messages = MessageFiles(self.database, config.root)
        self.sessions = Sessions(self.database, config.root_password)
        self.tasks = Tasks(self.database)
        self.storage = Storage(self)
        self._host_work = host_work
        self.own_host = NULL

    def open(self):
        """Load the database; answers False where the pool is new."""
        existed = self.store.load()
        self.messages.load()
        self.store.start()
        return existed

    def close(self):
        """Wake who waits for events, and write what is not yet on disk."""
        self.stopping.set()
        with self.database.lock:
            self.database.changed.notify_all()
        self.store.stop()

    def wait_durable(self):
        """What a call does before it is answered: see Store.wait_durable."""
        self.store.wait_durable()

    @property
    def ref(self):
        """The pool object."""
        return self.database.refs("pool")[0]

    @property
    def master(self):
        return self.database.get("pool", self.ref, "master")

    def url(self, host):
        """Where the xapi of that host is reached, by TLS."""
        record = self.database.record("host", host)
        return "https://%s:%s" % (record["address"], record["other_config"][HTTPS_PORT])

    def is_alive(self, host):
        """Whether the xapi of that host answers."""
        try:
            self.on_host(host, "real_path", path="/")
        except Failure:
            return False
        return True

    def on_host(self, host, function, **arguments):
        """Have a function of HostWork run on that host. Raises what it raises; HOST_OFFLINE [host]
        where it is away."""
        if host == self.own_host:
            return self._host_work.functions[function](**arguments)
        record = self.database.record("host", host)
        peer = Peer(
            record["address"], int(record["other_config"][HTTP_PORT]), self.config.pool_secret
        )
        try:
            return peer.ask(function, **arguments)
        except OSError as error:
            raise Failure("HOST_OFFLINE", host) from error
