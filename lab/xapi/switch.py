# SPDX-License-Identifier: LGPL-2.1-only
"""The message switch, over which xapi asks its own storage layer to take a snapshot, or to activate
a VDI. It keeps a request until it is answered, and so hands it to the xapi that comes after one
that was killed, which does it once more, for nobody (seen on a real xapi). One that is terminated
stays until SM's commands have ended, and leaves nothing behind.

Not so for the other requests, which have no effect that stays, or show when they are made twice.
"""

import contextlib
import json
import logging
import threading

from lab.xapi.failures import Failure

PLACE = "/run/message-switch.json"  # on the host whose storage layer was asked

_guard = threading.Lock()
SNAPSHOT, ACTIVATE = "snapshot", "activate"

log = logging.getLogger("xapi.switch")


def unanswered(pool, host, operation):
    """The requests of an operation to a host's storage layer: {the VDI's UUID: the request}."""
    return {
        name.partition(" ")[2]: request
        for name, request in _kept(pool, host).items()
        if name.partition(" ")[0] == operation
    }


def _kept(pool, host):
    return json.loads(pool.on_host(host, "kept", path=PLACE) or "{}")


@contextlib.contextmanager
def asked(pool, host, operation, vdi_uuid, request):
    """While the storage layer of a host carries out a request for a VDI, which is there again if
    that host's xapi is killed meanwhile. The master's asks for the snapshots: one that another host
    takes does not end with it."""
    if operation == SNAPSHOT and host != pool.own_host:
        yield
        return
    name = "%s %s" % (operation, vdi_uuid)
    _change(pool, host, name, request)
    try:
        yield
    finally:
        if not pool.stopping.is_set():
            with contextlib.suppress(Failure):  # a member whose xapi has ended
                _change(pool, host, name, None)


def forget(work):
    """A xapi that is terminated has answered. `work`: its HostWork."""
    with _guard:
        work.keep(PLACE, "{}")


def failed(pool, host):
    """The requests of a member's xapi, which goes on, to itself have failed: the master that they
    needed was killed."""
    with _guard:
        pool.on_host(host, "keep", path=PLACE, text="{}")


def hand_again(pool, host, operation, carry_out):
    """The requests of an operation to a xapi that has started, each in the background:
    `carry_out(VDI's UUID, request)`. The threads."""

    def work(vdi_uuid, request):
        log.info("VDI %s: %s has not been answered, and is carried out again", vdi_uuid, operation)
        try:
            carry_out(vdi_uuid, request)
        except Failure as failure:
            log.warning("VDI %s: %s", vdi_uuid, failure)
        with contextlib.suppress(Failure):
            _change(pool, host, "%s %s" % (operation, vdi_uuid), None)

    threads = [
        threading.Thread(target=work, args=one, name="switch", daemon=True)
        for one in unanswered(pool, host, operation).items()
    ]
    for thread in threads:
        thread.start()
    return threads


def _change(pool, host, name, request):
    with _guard:
        known = _kept(pool, host)
        known.pop(name, None)
        if request is not None:
            known[name] = request
        pool.on_host(host, "keep", path=PLACE, text=json.dumps(known))
