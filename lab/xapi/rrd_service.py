# SPDX-License-Identifier: LGPL-2.1-only
"""xapi before rrdd: GET /vm_rrd and PUT /rrd (rrdd_proxy.ml; rrdd_http_handler.ml), what a host's
rrdd answers at its own socket, and what xapi has it do as a VM starts, halts and goes."""

import logging
import urllib.parse
import xmlrpc.client

from lab.xapi import forwarding, rrdd, wire
from lab.xapi.failures import Failure
from lab.xapi.http_server import Reading, Unended, refusal, response
from lab.xapi.schema import NULL

VM_RRD = ("GET", "/vm_rrd")
PUT_RRD = ("PUT", "/rrd")
UNARCHIVE = "rrd_unarchive"
XML = "text/xml"

log = logging.getLogger("xapi.rrd")


class RrdService:
    """Of one host. `xapi`: its Xapi; `xapi.known_rrd(uuid)`: what the pool's master says of a VM or
    host, see `known`."""

    def __init__(self, xapi):
        self._xapi = xapi
        self.rrdd = rrdd.Rrdd(xapi.config.root, xapi.work.xenops)
        self.functions = {
            "rrd_give_up": lambda vm: _text(self.rrdd.give_up(vm)),
            "rrd_push": lambda vm, rrd: self.rrdd.replace(vm, rrd.encode()),
        }

    # --- over the network

    def answer(self, request):
        """The Response to VM_RRD or PUT_RRD; None for anything else."""
        if (request.method, request.path) not in (VM_RRD, PUT_RRD):
            return None
        if not self._may(request):
            return refusal(401, "SESSION_INVALID")  # before anything else is looked at
        uuid = request.query.get("uuid")
        if uuid is None:
            return refusal(400, "missing the 'uuid' parameter")
        return (self._get if request.method == "GET" else self._put)(request, uuid)

    def _may(self, request):
        if request.local or forwarding.is_authentic(request.cookies, self._xapi.config.pool_secret):
            return True
        session = request.query.get("session_id") or request.cookies.get("session_id")
        return self._xapi.is_session(session or "")

    def _get(self, request, uuid):
        here = self.rrdd.find(uuid)
        if here is not None:
            return response(here, XML)
        if UNARCHIVE in request.query:
            return self._unarchive(uuid)
        known = self._xapi.known_rrd(uuid)
        if known["kind"] != "VM":  # Db.VM.get_by_uuid raises
            return refusal(500, "Db_exn.Read_missing_uuid")
        if known["owner"] not in (None, self._xapi.config.host["uuid"]):
            return _redirect(known["owner_url"], request)
        if self._xapi.config.is_master:
            return self._unarchive(uuid)
        return _redirect(known["master_url"], request, ((UNARCHIVE, ""),))

    def _unarchive(self, uuid):
        rrd = self.rrdd.archived(uuid)
        return refusal(404, "missing") if rrd is None else response(rrd, XML)

    def _put(self, request, uuid):
        archive = "archive" in request.query
        if archive and not self._xapi.config.is_master:
            return _redirect(self._xapi.known_rrd(uuid)["master_url"], request)
        known = self._xapi.known_rrd(uuid)
        if known["kind"] is None:
            return refusal(404, "invalid 'uuid' parameter")
        if known["kind"] == "host" and not archive:
            return refusal(400, "cannot archive host RRD")
        keep = self.rrdd.archive if archive else self.rrdd.replace
        # of what it does not read it says so behind its 200 (docs/checked-by-hand.md)
        return Reading(
            b"</rrd>",
            lambda body: keep(uuid, rrdd.check(body)),
            refused=refusal(500, "Parse_error"),
        )

    # --- over rrdd's own socket

    def answer_own(self, request):
        """The answer to a request at rrdd's socket: an RRD of the memory, or a call."""
        if (request.method, request.path) == VM_RRD:
            found = self.rrdd.find(request.query.get("uuid", ""))
            return refusal(404, "missing") if found is None else Unended(found, XML)
        if (request.method, request.path) != ("POST", "/"):
            return refusal(404, "not found")
        try:
            (members,), method = wire.parse_xmlrpc(request.body)
            answer = self._call(method, **members)
        except (wire.Malformed, xmlrpc.client.Fault, ValueError, TypeError) as error:
            return refusal(401, "Go away: %s" % error)  # xcp_rrdd.ml, xmlrpc_handler
        return response(wire.xml_plain_response(answer))

    def _call(self, method, vm_uuid, remote_address=None):
        if method == "has_vm_rrd":
            return self.rrdd.find(vm_uuid) is not None
        if method != "archive_rrd":
            raise ValueError("not a call that the lab's rrdd knows: %s" % method)
        rrd = self.rrdd.give_up(vm_uuid)
        if rrd is None:
            return None
        if remote_address is None:
            self.rrdd.archive(vm_uuid, rrd)
        else:
            self._xapi.archive_at_master(remote_address, vm_uuid, rrd)
        return None


def known(pool, uuid):
    """What the master knows of a UUID: {"kind": "VM", "host" or None; of a VM "owner": the UUID of
    the host that it is resident on, or None, and "owner_url"; "master_url"}."""
    database = pool.database
    vm, host = database.find_uuid("VM", uuid), database.find_uuid("host", uuid)
    resident = database.get("VM", vm, "resident_on") if vm else NULL
    owner = resident if resident != NULL and database.exists("host", resident) else None
    return {
        "kind": "VM" if vm else "host" if host else None,
        "owner": owner and database.get("host", owner, "uuid"),
        "owner_url": owner and pool.url(owner),
        "master_url": pool.url(pool.master),
    }


def archive(pool, host, uuid):
    """A VM has halted, or been suspended, on `host`, as the xapi there knows it."""
    rrd = _asked(pool, host, "rrd_give_up", vm=uuid)
    if rrd is not None:
        pool.rrdd.archive(uuid, rrd.encode())


def push(pool, host, uuid):
    """A VM has been started, or resumed, on `host`: its RRD goes on (message_forwarding.ml)."""
    rrd = pool.rrdd.archived(uuid)
    if rrd is not None:
        _asked(pool, host, "rrd_push", vm=uuid, rrd=rrd.decode())


def _asked(pool, host, function, **arguments):
    try:
        return pool.on_host(host, function, **arguments)
    except Failure as failure:  # log_and_ignore_exn
        log.warning("%s: %s", function, failure)
        return None


def _text(rrd):
    return rrd and rrd.decode()


def _redirect(url, request, more=()):
    query = urllib.parse.urlencode(list(more) + list(request.query.items()))
    return response(b"", status=302, headers=[("Location", "%s%s?%s" % (url, request.path, query))])
