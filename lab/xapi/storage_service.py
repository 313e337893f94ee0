# SPDX-License-Identifier: LGPL-2.1-only
"""What xenopsd asks of storage: POST /services/SM on a host's unix socket. Answered by the master,
run on that host."""

import logging
import xmlrpc.client

from lab.xapi import wire, xenops
from lab.xapi.failures import Failure

STORAGE = "/services/SM"
EVENTS = "/services/xenops-event"  # where xenopsd tells what has changed

log = logging.getLogger("xapi.storage")


def answer_storage(pool, host, body):
    """The answer to one call of xenopsd on `host`: VDI.attach {dp, sr, vdi, rw}, VDI.activate,
    deactivate or detach {dp, sr, vdi}, DP.destroy {dp, allow_leak}."""
    try:
        (members,), method = wire.parse_xmlrpc(body)
        if method not in _METHODS:
            return wire.xml_fault(-32601, "unknown method %s" % method)
        pool.storage.await_hearing(host)
        answer = _METHODS[method](pool, host, members)
        pool.wait_durable()
        return wire.xml_response(answer)
    except Failure as failure:
        log.warning("storage service: %s", failure)
        return wire.xml_response(failure=failure.description)
    except (wire.Malformed, xmlrpc.client.Fault, KeyError, TypeError, ValueError) as error:
        return wire.xml_fault(-32602, "bad request: %r" % error)


def answer_event(pool, host, body):
    """`VM.changed {id}` or `VBD.changed {id}`: take over how a VM of that host, or its disks, now
    are."""
    try:
        (members,), method = wire.parse_xmlrpc(body)
        if method not in _EVENTS:
            return wire.xml_fault(-32601, "unknown method %s" % method)
        vm = pool.database.find_uuid("VM", members["id"])
        if vm:
            _EVENTS[method](pool, vm, host)
            pool.wait_durable()
        return wire.xml_response("")
    except Failure as failure:
        return wire.xml_response(failure=failure.description)
    except (wire.Malformed, xmlrpc.client.Fault, KeyError, TypeError, ValueError) as error:
        return wire.xml_fault(-32602, "bad request: %r" % error)


def _of_vdi(operation):
    """A method that does `operation(layer, dp, sr, location, members)` with the VDI's lock."""

    def method(pool, host, members):
        sr, location = members["sr"], members["vdi"]
        with pool.storage.on_vdi(sr, location):
            return operation(pool.storage.layer(host), members["dp"], sr, location, members)

    return method


def _attach(layer, datapath, sr, location, members):
    return layer.attach(datapath, sr, location, members["rw"])


def _activate(pool, host, members):
    with pool.storage.on_vdi(members["sr"], members["vdi"]):
        pool.storage.activate(host, members["dp"], members["sr"], members["vdi"])
    vdi = pool.storage.vdi_named(members["sr"], members["vdi"])
    link = "/run/blktap-control/nbd/%s/%s" % (members["sr"], pool.database.get("VDI", vdi, "uuid"))
    return {"socket": pool.on_host(host, "real_path", path=link)}


def _destroy(pool, host, members):
    pool.storage.destroy_datapath(host, members["dp"], members["allow_leak"])


_EVENTS = {"VM.changed": xenops.update_vm, "VBD.changed": xenops.update_vbds}
_METHODS = {
    "VDI.attach": _of_vdi(_attach),
    "VDI.activate": _activate,
    "VDI.deactivate": _of_vdi(
        lambda layer, datapath, sr, location, _: layer.deactivate(datapath, sr, location)
    ),
    "VDI.detach": _of_vdi(
        lambda layer, datapath, sr, location, _: layer.detach(datapath, sr, location)
    ),
    "DP.destroy": _destroy,
}
