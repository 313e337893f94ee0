# SPDX-License-Identifier: LGPL-2.1-only
"""One host's xapi: what it serves as its pool's master, and as a slave."""

import logging
import os
import time
import xmlrpc.client

from lab.http_client import UnixConnection, request as http_request
from lab.xapi import (
    api,  # noqa: F401
    blobs,
    config,
    forwarding,
    guard_service,
    ha,
    handlers,
    host,
    messages,
    remote_database,
    rrd_service,
    rrdd,
    startup,
    storage_service,
    switch,
    vdi,
    wire,
)
from lab.xapi.dispatch import Dispatcher
from lab.xapi.failures import Failure
from lab.xapi.host_work import HostWork, dom0_inventory
from lab.xapi.http_server import RESET, Servers, make_certificate, refusal, response
from lab.xapi.pool import Pool

_JOIN_PATIENCE = 60.0  # seconds that a slave waits for its master to be up
# seconds that its own start may take there: an activation that is under way is waited for
_SYNCHRONISES = 300.0
# seconds for one call that is handed to xenopsd: receiving a VM waits for the gate
_XENOPS_TIMEOUT = 900.0
_SESSION_GONE = "Xmlrpc_client: the session of SM's command went with the pool's master"

log = logging.getLogger("xapi")


class Xapi:
    """Built from a Config; `start` serves, `stop` ends it."""

    def __init__(self, configuration):
        self.config = configuration
        self.work = HostWork(configuration.root)
        self.servers = Servers()
        self.rrds = rrd_service.RrdService(self)
        self.blobs = blobs.BlobService(self)
        self.work.functions.update(self.rrds.functions)
        self._inventory = dom0_inventory(configuration.root)
        self._prepared = False

    def start(self):
        make_certificate(self._path("/etc/xensource/xapi-ssl.pem"), self.config.host["address"])
        # before it has a database (xapi.ml, server_init)
        self.servers.listen_unix(self._path("/var/lib/xcp/xapi"), self.answer)
        self.servers.listen_unix(self._path(rrdd.SOCKET), self.rrds.answer_own)
        self.prepare()
        self._prepared = True
        # over the network nobody is served before (xapi.ml: start_database_engine, then
        # bring_up_management_if)
        self.synchronise()
        address = self.config.host["address"]
        self.servers.listen_http(address, self.config.http_port, self.answer)
        self.servers.listen_https(
            address, self.config.https_port, self._path("/etc/xensource/xapi-ssl.pem"), self.answer
        )
        self.join()
        ready = self._path("/run/xapi.ready")
        os.makedirs(os.path.dirname(ready), exist_ok=True)
        with open(ready, "w", encoding="utf-8") as file:
            file.write("%d\n" % os.getpid())

    def stop(self):
        switch.forget(self.work)
        for path in ("/run/xapi.ready", "/var/lib/xcp/xapi", rrdd.SOCKET):
            if os.path.lexists(self._path(path)):
                os.unlink(self._path(path))
        self.servers.stop()

    def _path(self, absolute):
        return self.config.root + absolute

    # --- requests

    def answer(self, request):
        """The Response to any Request."""
        if not self._prepared:
            return self._not_yet(request)
        if request.path == "/internal":
            if not forwarding.is_authentic(request.cookies, self.config.pool_secret):
                return refusal(403, "forbidden")
            return response(
                forwarding.answer_internal(self.internal_functions(), request.body),
                "application/json",
            )
        if request.path == storage_service.EVENTS and not self.work.listening.is_set():
            return response(wire.xml_response(""))  # lost: nobody listens
        if request.path == "/services/xenops" or request.path.startswith("/services/xenops/"):
            return self._xenops(request)
        return (
            self.rrds.answer(request) or self.blobs.answer(request) or self.answer_public(request)
        )

    def _not_yet(self, request):
        """What a xapi answers that has not read its database, as a real one was seen to: there is
        no host, and no session."""
        if request.method != "POST" or request.path not in ("/", "/RPC2"):
            return refusal(500, "Db_exn.Read_missing_uuid")
        parameters, name = wire.parse_xmlrpc(request.body)
        missing = Failure("UUID_INVALID", "host", self.config.host["uuid"])
        failure = (
            missing
            if name == "session.login_with_password"
            else Failure("SESSION_INVALID", *parameters[:1])
        )
        return response(wire.xml_response(failure=failure.description))

    def host_uuid(self, request):
        """The host over whose unix socket the request came: this one, or the one that forwarded it;
        None for any other."""
        if request.local:
            return self.config.host["uuid"]
        if forwarding.ORIGIN in request.headers and forwarding.is_authentic(
            request.cookies, self.config.pool_secret
        ):
            return request.headers[forwarding.ORIGIN]
        return None

    def _xenops(self, request):
        """Hand it unchanged to this host's xenopsd, and its answer back."""
        session = request.query.get("session_id") or request.cookies.get("session_id")
        if not request.local and not self.is_session(session or ""):
            return refusal(401, "SESSION_INVALID")
        connection = UnixConnection(self._path("/run/xenopsd.sock"), _XENOPS_TIMEOUT)
        target = request.target.replace("/services/xenops", "", 1)
        try:
            status, headers, body = http_request(
                connection,
                request.method,
                target if target.startswith("/") else "/" + target,
                request.body,
                {"Content-Type": request.headers.get("Content-Type", "text/xml")},
            )
        except OSError as error:
            log.warning("xenopsd cannot be reached: %s", error)
            return refusal(503, "xenopsd cannot be reached")
        return response(body, dict(headers).get("Content-Type", "text/xml"), status)


class Master(Xapi):
    """It has the database, and answers everything."""

    def prepare(self):
        self.pool = Pool(self.config, self.work, self.rrds.rrdd)
        self._dispatcher = Dispatcher(self.pool)
        existed = self.pool.open()
        if not existed:
            host.make_pool(self.pool, self.config)
        startup.release_locks(self.pool.database)
        startup.allow_operations(self.pool.database)
        self.pool.own_host = host.join(
            self.pool,
            self.config.self_description,
            True,
            self._inventory.get("CONTROL_DOMAIN_UUID"),
        )
        self.pool.storage.close_layer(self.pool.own_host)
        if not existed:
            self.pool.store.sync()

    def synchronise(self):
        startup.open_storage(self.pool, self.pool.own_host)
        self._synchronise(self.pool.own_host)

    def join(self):
        self._take_in(self.pool.own_host)
        ha.Monitor(self.pool).watch()

    def _synchronise(self, ref):
        """The database and a host whose xapi starts (dbsync)."""
        host.register(self.pool, ref)
        startup.synchronise_storage(self.pool, ref)

    def _take_in(self, ref):
        """What follows of it."""
        startup.plug_all(self.pool, ref)
        startup.resynchronise_vms(self.pool, ref)
        if ref == self.pool.own_host:
            switch.hand_again(
                self.pool,
                ref,
                switch.SNAPSHOT,
                lambda vdi_uuid, request: vdi.snapshot_again(self.pool, vdi_uuid, request),
            )
        self.pool.wait_durable()

    def stop(self):
        self.pool.stopping.set()
        super().stop()
        self.pool.close()

    def is_session(self, session):
        return self.pool.database.exists("session", session)

    def internal_functions(self):
        return dict(
            self.work.functions,
            begin=self._begin,
            join=self._admit,
            is_session=self.is_session,
            known_rrd=self.known_rrd,
            known_blob=self.known_blob,
            put_blob=self.put_blob,
            archive_rrd=self._archive,
        )

    def known_rrd(self, uuid):
        """Of a VM or host: see rrd_service.known."""
        return rrd_service.known(self.pool, uuid)

    def known_blob(self, ref, uuid):
        """See blobs.known."""
        return blobs.known(self.pool, ref, uuid)

    def put_blob(self, ref, size):
        """See blobs.put."""
        blobs.put(self.pool, ref, size)

    def archive_at_master(self, address, vm, rrd):
        """What the rrdd of a master has no use for."""
        raise ValueError("the master itself, at %s, is asked to archive of VM %s" % (address, vm))

    def _archive(self, vm, rrd):
        """As PUT /rrd?archive=true of a member's rrdd has it."""
        if self.known_rrd(vm)["kind"] is None:
            raise Failure("INTERNAL_ERROR", "HTTP 404")
        self.rrds.rrdd.archive(vm, rrd.encode())

    def _begin(self, description, control_domain):
        """A slave starts: its ref."""
        ref = host.join(self.pool, description, False, control_domain)
        startup.open_storage(self.pool, ref)
        return ref

    def _admit(self, ref):
        """It serves its xenopsd."""
        self._synchronise(ref)
        self._take_in(ref)

    def answer_public(self, request):
        host_uuid = self.host_uuid(request)
        if request.path in ("/", "/RPC2") and request.method == "POST":
            return self._xmlrpc(request.body, host_uuid)
        if request.path == "/jsonrpc" and request.method == "POST":
            return self._jsonrpc(request.body, host_uuid)
        if (request.method, request.path) in _HTTP_HANDLERS:
            return _HTTP_HANDLERS[request.method, request.path](self.pool, request, host_uuid)
        if (request.method, request.path) in _LOCAL_HANDLERS and host_uuid:
            asking = self.pool.database.by_uuid("host", host_uuid)
            return response(
                _LOCAL_HANDLERS[request.method, request.path](self.pool, asking, request.body)
            )
        return refusal(404, "not found")

    def _xmlrpc(self, body, host_uuid):
        try:
            parameters, name = wire.parse_xmlrpc(body)
        except (wire.Malformed, xmlrpc.client.Fault) as error:
            return refusal(400, str(error))
        value, failure = self._dispatcher.answer(
            name or "", list(parameters), host_uuid is not None, host_uuid
        )
        return response(wire.xml_response(value, failure))

    def _jsonrpc(self, body, host_uuid):
        try:
            name, parameters, identity, second = wire.parse_json_call(body)
        except wire.Malformed as error:
            return refusal(400, str(error))
        value, failure = self._dispatcher.answer(name, parameters, host_uuid is not None, host_uuid)
        return response(wire.json_response(identity, second, value, failure), "application/json")


_HTTP_HANDLERS = {
    ("GET", "/export_metadata"): handlers.export_metadata,
    ("PUT", "/import_metadata"): handlers.import_metadata,
    messages.PUT: messages.put,
    remote_database.POST: remote_database.post,
}
_LOCAL_HANDLERS = {
    ("POST", storage_service.STORAGE): storage_service.answer_storage,
    ("POST", storage_service.EVENTS): storage_service.answer_event,
    ("POST", guard_service.GUARD): guard_service.answer,
}
_CALL_PATHS = ("/", "/RPC2", "/jsonrpc")


class Slave(Xapi):
    """It does its host's work for the master, and hands what comes over its unix socket to the
    master."""

    _serves_storage = False

    def prepare(self):
        self._master = forwarding.Peer(
            self.config.master["address"],
            int(self.config.master["http_port"]),
            self.config.pool_secret,
        )

    def synchronise(self):
        """A member is served over the network before its database is up to date: see `join`."""

    def join(self):
        deadline = time.monotonic() + _JOIN_PATIENCE
        while True:
            try:
                ref = self._master.ask(
                    "begin",
                    timeout=60.0,
                    description=self.config.self_description,
                    control_domain=self._inventory.get("CONTROL_DOMAIN_UUID"),
                )
                self._serves_storage = True
                return self._master.ask("join", timeout=_SYNCHRONISES, ref=ref)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def is_session(self, session):
        try:
            return self._master.ask("is_session", timeout=30.0, session=session)
        except OSError:
            return False

    def internal_functions(self):
        return self.work.functions

    def known_rrd(self, uuid):
        """Of a VM or host: see rrd_service.known."""
        return self._master.ask("known_rrd", timeout=30.0, uuid=uuid)

    def known_blob(self, ref, uuid):
        """See blobs.known."""
        return self._master.ask("known_blob", timeout=30.0, ref=ref, uuid=uuid)

    def put_blob(self, ref, size):
        """See blobs.put."""
        self._master.ask("put_blob", timeout=30.0, ref=ref, size=size)

    def archive_at_master(self, address, vm, rrd):
        """Have the master keep an RRD."""
        if address != self.config.master["address"]:
            raise ValueError("%s is not the master" % address)
        self._master.ask("archive_rrd", timeout=30.0, vm=vm, rrd=rrd.decode())

    def answer_public(self, request):
        if (request.method, request.path) == messages.PUT:
            return messages.put_at_member(self, request)
        if request.path == remote_database.URI:
            return refusal(404, "not found")  # over its own socket as well
        if request.path == storage_service.STORAGE and not self._serves_storage:
            return refusal(503, "not yet")  # it lies in message-switch's queue
        if request.local and request.path == storage_service.STORAGE:
            return self._have_stored(request)
        if request.local or request.path in ("/export_metadata", "/import_metadata"):
            return self._forward(request)
        if request.path == "/jsonrpc" and request.method == "POST":
            return self._refuse_json(request.body)
        if request.path in _CALL_PATHS and request.method == "POST":
            return response(wire.xml_response(failure=self._not_here))
        return refusal(404, "not found")

    @property
    def _not_here(self):
        return Failure("HOST_IS_SLAVE", self.config.master["address"]).description

    def _refuse_json(self, body):
        try:
            _, _, identity, second = wire.parse_json_call(body)
        except wire.Malformed as error:
            return refusal(400, str(error))
        return response(
            wire.json_response(identity, second, failure=self._not_here), "application/json"
        )

    def _have_stored(self, request):
        """What xenopsd asks of storage: a real member's own xapi does it, with a session of the
        master's. That one is gone with a master that dies meanwhile, SM's command fails, and so
        does what was asked (seen on a real one: Fault 401)."""
        try:
            return self._forwarded(request)
        except (ConnectionResetError, forwarding.Lost) as error:
            log.error("the master has gone in the middle of what xenopsd asked for: %s", error)
            return response(
                wire.xml_response(failure=Failure("INTERNAL_ERROR", _SESSION_GONE).description)
            )
        except OSError as error:
            return self._away(error)

    def _forward(self, request):
        try:
            return self._forwarded(request)
        except ConnectionResetError:
            return RESET
        except OSError as error:
            return self._away(error)

    def _away(self, error):
        log.error("the master cannot be reached: %s", error)
        return refusal(503, "the pool's master cannot be reached")

    def _forwarded(self, request):
        headers = {"Content-Type": request.headers.get("Content-Type", "text/xml")}
        if request.local:
            headers[forwarding.ORIGIN] = self.config.host["uuid"]
        target = request.target
        # the cookies do not survive: the secret goes in their place
        for name in ("session_id", "task_id"):
            if name in request.cookies and name not in request.query:
                target += "%s%s=%s" % ("&" if "?" in target else "?", name, request.cookies[name])
        status, answered, body = self._master.relay(request.method, target, request.body, headers)
        kept = {name.lower(): value for name, value in answered}
        return response(
            body,
            kept.get("content-type", "text/xml"),
            status,
            [(name, kept[name]) for name in ("task-id", "content-disposition") if name in kept],
        )


def serve(root, stop_requested):
    """Be the xapi of the host with this root until `stop_requested` (a threading.Event) is set."""
    configuration = config.read(root)
    xapi = (Master if configuration.is_master else Slave)(configuration)
    try:
        xapi.start()
        log.info(
            "xapi of %s serves as %s",
            configuration.host["name"],
            "master" if configuration.is_master else "slave",
        )
        stop_requested.wait()
    finally:
        xapi.stop()
        log.info("xapi of %s ends", configuration.host["name"])
