"""What xenopsd asks of storage: POST /services/SM on a host's unix socket. Answered by the master, run on that host."""
import logging
import xmlrpc.client

from lab.xapi import wire, xenops
from lab.xapi.failures import Failure

log = logging.getLogger("xapi.storage")


def answer_storage(pool, host, body):
    """The answer to one call of xenopsd on `host`: VDI.attach, activate, deactivate or detach {sr, vdi, rw}."""
    try:
        (members,), method = wire.parse_xmlrpc(body)
        if method not in _METHODS:
            return wire.xml_fault(-32601, "unknown method %s" % method)
        vdi = _vdi(pool.database, members["sr"], members["vdi"])
        answer = _METHODS[method](pool, host, vdi, members)
        pool.wait_durable()
        return wire.xml_response(answer)
    except Failure as failure:
        log.warning("storage service: %s", failure)
        return wire.xml_response(failure=failure.description)
    except (wire.Malformed, xmlrpc.client.Fault, KeyError, TypeError, ValueError) as error:
        return wire.xml_fault(-32602, "bad request: %r" % error)


def answer_event(pool, host, body):
    """`VM.changed {id}`: take over how a VM of that host now is."""
    try:
        (members,), method = wire.parse_xmlrpc(body)
        if method != "VM.changed":
            return wire.xml_fault(-32601, "unknown method %s" % method)
        vm = pool.database.find_uuid("VM", members["id"])
        if vm:
            xenops.refresh(pool, vm, host)
            pool.wait_durable()
        return wire.xml_response("")
    except Failure as failure:
        return wire.xml_response(failure=failure.description)
    except (wire.Malformed, xmlrpc.client.Fault, KeyError, TypeError, ValueError) as error:
        return wire.xml_fault(-32602, "bad request: %r" % error)


def _vdi(database, sr_uuid, location):
    vdi = xenops.vdi_of(database, "%s/%s" % (sr_uuid, location))
    if vdi is None:
        raise Failure("VDI_MISSING", sr_uuid, location)
    return vdi


def _flag(members):
    return ["true" if members["rw"] else "false"]


def _attach(pool, host, vdi, members):
    with pool.storage.exclusively(vdi):
        return pool.storage.run_vdi(vdi, "vdi_attach", _flag(members), host=host)


def _activate(pool, host, vdi, members):
    with pool.storage.exclusively(vdi):
        pool.storage.run_vdi(vdi, "vdi_activate", _flag(members), host=host)
    record = pool.database.record("VDI", vdi)
    link = "/run/blktap-control/nbd/%s/%s" % (pool.database.get("SR", record["SR"], "uuid"), record["uuid"])
    return {"socket": pool.on_host(host, "real_path", path=link)}


def _deactivate(pool, host, vdi, _members):
    with pool.storage.exclusively(vdi):
        pool.storage.run_vdi(vdi, "vdi_deactivate", host=host)


def _detach(pool, host, vdi, _members):
    with pool.storage.exclusively(vdi):
        pool.storage.run_vdi(vdi, "vdi_detach", host=host)


_METHODS = {"VDI.attach": _attach, "VDI.activate": _activate, "VDI.deactivate": _deactivate, "VDI.detach": _detach}
