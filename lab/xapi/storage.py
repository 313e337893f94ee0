# SPDX-License-Identifier: LGPL-2.1-only
"""Running SM drivers: which host, which arguments, what their answers mean (xapi's sm_exec)."""

import contextlib
import logging
import threading
import weakref
import xmlrpc.client

from lab.xapi import datapaths, switch, wire, xenops
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

# seconds to wait for another operation on the same VDI or SR: more than an activation takes
_LOCK_TIMEOUT = 240.0

# Fault codes of drivers that have a XenAPI code of their own; the others become
# SR_BACKEND_FAILURE_<code>.
_FAULTS = {
    38: "SR_OPERATION_NOT_SUPPORTED",
    39: "SR_NOT_EMPTY",
    24: "VDI_IN_USE",
    16: "SR_DEVICE_IN_USE",
    144: "VDI_MISSING",
}

log = logging.getLogger("xapi.storage")


class Storage:
    """The SM drivers of a pool's hosts."""

    def __init__(self, pool):
        self._pool = pool
        self._guard = threading.Lock()
        # they go with the last operation that holds one
        self._locks = weakref.WeakValueDictionary()
        self._layers = {}  # host -> its Datapaths
        self._starting = set()  # hosts whose xapi brings its storage up to date: who asks waits
        self._ready = threading.Condition()
        self._unheard = set()  # hosts whose xapi, as it starts, does not take what xenopsd asks

    @contextlib.contextmanager
    def exclusively(self, ref):
        """One operation at a time on the VDI or SR `ref`. Raises OTHER_OPERATION_IN_PROGRESS when
        it takes too long."""
        with self._guard:
            lock = self._locks.setdefault(ref, threading.Lock())
        if not lock.acquire(timeout=_LOCK_TIMEOUT):
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", ref)
        try:
            yield
        finally:
            lock.release()

    # --- datapaths

    def open_layer(self, host):
        """The storage layer of a host whose xapi starts, as its memory has it. Nobody else is
        served before `serve_layer`."""
        saved = self._pool.on_host(host, "kept", path=datapaths.STATE)
        return datapaths.Datapaths(
            lambda sr, vdi, operation, writable: self._ask_sm(host, sr, vdi, operation, writable),
            saved,
            lambda text: self._pool.on_host(host, "keep", path=datapaths.STATE, text=text),
        )

    def close_layer(self, host):
        """The host's xapi starts: who asks waits for `serve_layer`."""
        with self._ready:
            self._starting.add(host)
            self._layers.pop(host, None)

    def serve_layer(self, host, layer):
        """From here on its calls are answered."""
        with self._ready:
            self._layers[host] = layer
            self._starting.discard(host)
            self._ready.notify_all()

    def hear(self, host, whether):
        """Whether what xenopsd of that host asks is taken, or lies in its queue."""
        with self._ready:
            (self._unheard.discard if whether else self._unheard.add)(host)
            self._ready.notify_all()

    def await_hearing(self, host):
        """For what xenopsd asks, before it takes any lock. Raises HOST_OFFLINE [host]."""
        with self._ready:
            if not self._ready.wait_for(lambda: host not in self._unheard, _LOCK_TIMEOUT):
                raise Failure("HOST_OFFLINE", host)

    def layer(self, host):
        """The Datapaths of a host; waits until they are served. Raises HOST_OFFLINE [host]."""
        with self._ready:
            if not self._ready.wait_for(lambda: host not in self._starting, _LOCK_TIMEOUT):
                raise Failure("HOST_OFFLINE", host)
            if host not in self._layers:  # a member whose xapi went on while the master's started
                self._layers[host] = self.open_layer(host)
                self._layers[host].remember_all()
                switch.failed(self._pool, host)
            return self._layers[host]

    def activate(self, host, datapath, sr_uuid, location):
        """See Datapaths.activate; the caller has the VDI's lock. It is done again by the xapi that
        comes after one that is killed meanwhile."""
        vdi = self.vdi_named(sr_uuid, location)
        request = {"datapath": datapath, "sr": sr_uuid, "vdi": location}
        with switch.asked(
            self._pool,
            host,
            switch.ACTIVATE,
            self._pool.database.get("VDI", vdi, "uuid") if vdi else location,
            request,
        ):
            self.layer(host).activate(datapath, sr_uuid, location)

    def activate_again(self, host):
        """A xapi starts, and is handed what the one before it was having SM activate: nobody waits
        for the answer any more. Each is begun, with its VDI's lock, when this ends
        (storage_access.ml, start_smapiv1_servers, comes before dbsync)."""
        begun = threading.Semaphore(0)
        layer = self.layer(host)

        def carry_out(_, request):
            place = request["sr"], request["vdi"]
            with self.on_vdi(*place):
                begun.release()
                layer.activate(request["datapath"], *place)

        for _ in switch.hand_again(self._pool, host, switch.ACTIVATE, carry_out):
            begun.acquire(timeout=_LOCK_TIMEOUT)

    def attach_sr(self, sr, host, task=None):
        """Have SM attach an SR on a host, unless it is."""
        layer, uuid = self.layer(host), self._pool.database.get("SR", sr, "uuid")
        if uuid not in layer.srs():
            self.run_sr(sr, "sr_attach", host=host, task=task)
            layer.sr_attached(uuid)

    def detach_sr(self, sr, host, task=None):
        """Have SM detach an SR on a host, with all datapaths in it."""
        layer, uuid = self.layer(host), self._pool.database.get("SR", sr, "uuid")
        if uuid in layer.srs():
            layer.sr_detaches(uuid)
            self.run_sr(sr, "sr_detach", host=host, task=task)
            layer.sr_detached(uuid)

    def vdi_named(self, sr_uuid, location):
        """The VDI of an SR's UUID and a location, or None."""
        return xenops.vdi_of(self._pool.database, "%s/%s" % (sr_uuid, location))

    def on_vdi(self, sr_uuid, location):
        """As `exclusively`, for a VDI that may not be in the database."""
        return self.exclusively(self.vdi_named(sr_uuid, location) or "%s/%s" % (sr_uuid, location))

    def destroy_datapath(self, host, name, allow_leak):
        """See Datapaths.destroy; one that is not known there is no error."""
        layer = self.layer(host)
        place = layer.place(name)
        if place is None:
            log.info(
                "datapath %s is not associated with a locally attached VDI; nothing to do", name
            )
            return
        with self.on_vdi(*place):
            if layer.place(name):
                layer.destroy(name, allow_leak)

    def remove_datapaths(self, vdi, host):
        """Before a VDI is destroyed on `host` (the caller has its lock): remove its datapaths
        there. Raises the first refusal of SM."""
        record = self._pool.database.record("VDI", vdi)
        self.layer(host).remove_all(
            self._pool.database.get("SR", record["SR"], "uuid"), record["location"]
        )

    def _ask_sm(self, host, sr_uuid, location, operation, writable):
        vdi = self.vdi_named(sr_uuid, location)
        if vdi is None:
            raise datapaths.NoVdi("%s/%s" % (sr_uuid, location))
        arguments = ["true" if writable else "false"] if operation in ("attach", "activate") else []
        return self.run_vdi(vdi, "vdi_" + operation, arguments, host=host)

    # --- drivers

    def host_for(self, sr):
        """The host that operations on this SR run on: the master if it is shared, else the host
        that it is plugged on.

        Raises SR_HAS_NO_PBDS [sr] where it is not plugged there.
        """
        database = self._pool.database
        shared = database.get("SR", sr, "shared")
        for pbd in database.get("SR", sr, "PBDs"):
            record = database.record("PBD", pbd)
            if record["currently_attached"] and (not shared or record["host"] == self._pool.master):
                return record["host"]
        raise Failure("SR_HAS_NO_PBDS", sr)

    def pbd_on(self, sr, host):
        """The PBD that connects host and SR. Raises SR_HAS_NO_PBDS [sr]."""
        pbds = self._pool.database.where("PBD", SR=sr, host=host)
        if not pbds:
            raise Failure("SR_HAS_NO_PBDS", sr)
        return pbds[0]

    def run_sr(self, sr, command, arguments=(), host=None, task=None, **extra):
        """Run a driver's command on an SR. Answers what the driver answered. Raises as `_answer`
        says."""
        database = self._pool.database
        host = host or self.host_for(sr)
        record = database.record("SR", sr)
        device_config = dict(database.get("PBD", self.pbd_on(sr, host), "device_config"))
        is_master = not record["shared"] or host == self._pool.master
        device_config["SRmaster"] = "true" if is_master else "false"
        return self.run_driver(
            host,
            record["type"],
            command,
            arguments,
            device_config,
            task,
            sr_ref=sr,
            sr_uuid=record["uuid"],
            **extra,
        )

    def run_vdi(self, vdi, command, arguments=(), host=None, task=None, **extra):
        """Run a driver's command on a VDI."""
        record = self._pool.database.record("VDI", vdi)
        return self.run_sr(
            record["SR"],
            command,
            arguments,
            host,
            task,
            vdi_ref=vdi,
            vdi_location=record["location"],
            vdi_uuid=record["uuid"],
            vdi_on_boot=record["on_boot"],
            vdi_allow_caching="true" if record["allow_caching"] else "false",
            **extra,
        )

    def run_driver(
        self,
        host,
        sr_type,
        command,
        arguments,
        device_config,
        task=None,
        needs_session=True,
        **members,
    ):
        """Execute the driver of `sr_type` on `host`; `members` are the further members of its
        argument, all strings or structs of strings. Raises SR_UNKNOWN_DRIVER [type]."""
        sessions = self._pool.sessions
        session = sessions.open_for_driver(host, members.get("sr_ref")) if needs_session else None
        struct = {
            "host_ref": host,
            "command": command,
            "args": [str(argument) for argument in arguments],
            "device_config": device_config,
            "subtask_of": task or NULL,
            **members,
        }
        if session:
            struct["session_ref"] = session
        try:
            ended = self._pool.on_host(
                host,
                "run_driver",
                driver=self._driver(sr_type),
                call=xmlrpc.client.dumps((struct,), command),
            )
        finally:
            if session:
                sessions.close(session)
        return _answer(ended, members)

    def _driver(self, sr_type):
        for record in self._pool.database.records("SM").values():
            if record["type"] == sr_type:
                return record["driver_filename"].rsplit("/", 1)[1][: -len("SR")]
        raise Failure("SR_UNKNOWN_DRIVER", sr_type)

    def is_supported(self, sr_type):
        """Is there a driver for this type of SR?"""
        return bool(self._pool.database.where("SM", type=sr_type))


def _answer(ended, members):
    """What a driver answered. Raises SR_BACKEND_FAILURE_<code> ["", text, stderr] for its fault,
    SR_BACKEND_FAILURE [reason, stdout, stderr] where it answered nothing of use."""
    output, errors = ended["stdout"], ended["stderr"]
    if ended["signal"]:
        raise Failure("SR_BACKEND_FAILURE", "received signal: %s" % ended["signal"], output, errors)
    if ended["exit"] != 0:
        raise Failure("SR_BACKEND_FAILURE", "non-zero exit", output, errors)
    try:
        (answer,), _ = wire.parse_xmlrpc(output)
    except xmlrpc.client.Fault as fault:
        code = int(fault.faultCode)
        if code not in _FAULTS:
            raise Failure("SR_BACKEND_FAILURE_%d" % code, "", fault.faultString, errors) from None
        about = [members[name] for name in ("sr_ref", "vdi_ref") if code != 39 and name in members]
        raise Failure(_FAULTS[code], *about) from None
    except (wire.Malformed, ValueError) as error:
        raise Failure("SR_BACKEND_FAILURE", error, output, errors) from None
    return answer


def member(answer, name):
    """A string member of a driver's struct. Raises SR_BACKEND_FAILURE where it is not there."""
    if not isinstance(answer, dict) or not isinstance(answer.get(name), str):
        raise Failure(
            "SR_BACKEND_FAILURE", "", "XML parse failure: <struct> missing field: %s" % name, ""
        )
    return answer[name]
