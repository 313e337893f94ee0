# SPDX-License-Identifier: LGPL-2.1-only
"""pool.sync_database: the database as it is now on the disk of every host (xapi_pool.ml
`sync_database`, xapi_host.ml `request_backup`)."""

import concurrent.futures
import threading
import time

from lab.xapi.calls import call
from lab.xapi.failures import Failure

_AGAIN = 1.0  # seconds between two tries to reach a member
_one_at_a_time = threading.Lock()


@call("pool.sync_database")
def sync_database(context):
    """Answered once all hosts have it, the master on its own disk with fsync. Calls queue behind
    each other, and a member that is off or hung holds all of them up. Raises CANNOT_CONTACT_HOST
    [host] for one that stays away; the master's file is written all the same."""
    pool = context.pool
    hosts = pool.database.refs("host")
    with _one_at_a_time, concurrent.futures.ThreadPoolExecutor(len(hosts)) as at_once:
        backups = [at_once.submit(_back_up, pool, host) for host in hosts]
    for backup in backups:
        backup.result()


def _back_up(pool, host):
    if host == pool.own_host:
        return pool.store.sync()
    deadline = time.monotonic() + pool.config.away_seconds
    while True:
        try:
            return pool.on_host(host, "back_up", database=pool.store.contents())
        except Failure as failure:
            if failure.code != "HOST_OFFLINE":
                raise
            if time.monotonic() > deadline or pool.stopping.wait(_AGAIN):
                raise Failure("CANNOT_CONTACT_HOST", host) from None
