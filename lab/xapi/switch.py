"""The message switch, over which xapi asks its own storage layer to take a snapshot. It keeps a request until it is answered, and so hands it to the
xapi that comes after one that was killed, which takes the snapshot once more, for nobody (seen on a real xapi). One that is terminated
stays until SM's commands have ended, and leaves nothing behind.

Not so for the other requests, which have no effect that stays, or show when they are made twice.
"""
import contextlib
import json
import logging
import threading

from lab.xapi.failures import Failure

PLACE = "/run/message-switch.json"      # on the host whose storage layer was asked

_guard = threading.Lock()
log = logging.getLogger("xapi.switch")


def unanswered(pool, host):
    """The requests to a host's storage layer: {the VDI's UUID: the request}."""
    return json.loads(pool.on_host(host, "kept", path=PLACE) or "{}")


@contextlib.contextmanager
def asked(pool, host, vdi_uuid, request):
    """While the storage layer of a host carries out a request for a VDI. That of another host than the master's, whose xapi asks, does not end with it."""
    if host != pool.own_host:
        yield
        return
    _change(pool, host, vdi_uuid, request)
    try:
        yield
    finally:
        if not pool.stopping.is_set():
            _change(pool, host, vdi_uuid, None)


def forget(pool, host):
    """A xapi that is terminated has answered."""
    with _guard:
        pool.on_host(host, "keep", path=PLACE, text="{}")


def hand_again(pool, host, carry_out):
    """To a xapi that has started, in the background: `carry_out(VDI's UUID, request)`."""
    def work():
        for vdi_uuid, request in unanswered(pool, host).items():
            log.info("VDI %s: %s has not been answered, and is carried out again", vdi_uuid, request)
            try:
                carry_out(vdi_uuid, request)
            except Failure as failure:
                log.warning("VDI %s: %s", vdi_uuid, failure)
            _change(pool, host, vdi_uuid, None)
    threading.Thread(target=work, name="switch", daemon=True).start()


def _change(pool, host, vdi_uuid, request):
    with _guard:
        known = unanswered(pool, host)
        known.pop(vdi_uuid, None)
        if request is not None:
            known[vdi_uuid] = request
        pool.on_host(host, "keep", path=PLACE, text=json.dumps(known))
