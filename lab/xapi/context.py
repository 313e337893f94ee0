# SPDX-License-Identifier: LGPL-2.1-only
"""For whom a call runs."""


class Context:
    """One call: the pool that answers it, the session it came with, the task that it is.

    `local`: it came over a host's unix socket (or its internal route), so it is dom0's root.
    `host_uuid`: the host over whose socket it came.
    """

    def __init__(self, pool, session=None, local=False, host_uuid=None, task=None, originator=""):
        self.pool = pool
        self.database = pool.database if pool else None
        self.session = session
        self.local = local
        self.host_uuid = host_uuid
        self.task = task
        self.originator = originator

    def within(self, task):
        """The same, as `task`."""
        return Context(self.pool, self.session, self.local, self.host_uuid, task, self.originator)

    @property
    def host(self):
        """The ref of the host over whose socket the call came."""
        return self.database.by_uuid("host", self.host_uuid)
