"""Running SM drivers: which host, which arguments, what their answers mean (xapi's sm_exec)."""
import contextlib
import threading
import weakref
import xmlrpc.client

from lab.xapi import wire
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

_LOCK_TIMEOUT = 240.0           # seconds to wait for another operation on the same VDI or SR: more than an activation takes

# Fault codes of drivers that have a XenAPI code of their own; the others become SR_BACKEND_FAILURE_<code>.
_FAULTS = {38: "SR_OPERATION_NOT_SUPPORTED", 39: "SR_NOT_EMPTY", 24: "VDI_IN_USE", 16: "SR_DEVICE_IN_USE", 144: "VDI_MISSING"}


class Storage:
    """The SM drivers of a pool's hosts."""

    def __init__(self, pool):
        self._pool = pool
        self._guard = threading.Lock()
        self._locks = weakref.WeakValueDictionary()      # they go with the last operation that holds one

    @contextlib.contextmanager
    def exclusively(self, ref):
        """One operation at a time on the VDI or SR `ref`. Raises OTHER_OPERATION_IN_PROGRESS when it takes too long."""
        with self._guard:
            lock = self._locks.setdefault(ref, threading.Lock())
        if not lock.acquire(timeout=_LOCK_TIMEOUT):
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", ref)
        try:
            yield
        finally:
            lock.release()

    def host_for(self, sr):
        """The host that operations on this SR run on: the master if it is shared, else the host that it is plugged on.

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
        """Run a driver's command on an SR. Answers what the driver answered. Raises as `_answer` says."""
        database = self._pool.database
        host = host or self.host_for(sr)
        record = database.record("SR", sr)
        device_config = dict(database.get("PBD", self.pbd_on(sr, host), "device_config"))
        is_master = not record["shared"] or host == self._pool.master
        device_config["SRmaster"] = "true" if is_master else "false"
        return self.run_driver(host, record["type"], command, arguments, device_config, task,
                               sr_ref=sr, sr_uuid=record["uuid"], **extra)

    def run_vdi(self, vdi, command, arguments=(), host=None, task=None, **extra):
        """Run a driver's command on a VDI."""
        record = self._pool.database.record("VDI", vdi)
        return self.run_sr(record["SR"], command, arguments, host, task, vdi_ref=vdi, vdi_location=record["location"],
                           vdi_uuid=record["uuid"], vdi_on_boot=record["on_boot"],
                           vdi_allow_caching="true" if record["allow_caching"] else "false", **extra)

    def run_driver(self, host, sr_type, command, arguments, device_config, task=None, needs_session=True, **members):
        """Execute the driver of `sr_type` on `host`; `members` are the further members of its argument, all strings or
        structs of strings. Raises SR_UNKNOWN_DRIVER [type]."""
        sessions = self._pool.sessions
        session = sessions.open(host, "SM") if needs_session else None
        struct = {"host_ref": host, "command": command, "args": [str(argument) for argument in arguments],
                  "device_config": device_config, "subtask_of": task or NULL, **members}
        if session:
            struct["session_ref"] = session
        try:
            ended = self._pool.on_host(host, "run_driver", driver=self._driver(sr_type),
                                       call=xmlrpc.client.dumps((struct,), command))
        finally:
            if session:
                sessions.close(session)
        return _answer(ended, members)

    def _driver(self, sr_type):
        for record in self._pool.database.records("SM").values():
            if record["type"] == sr_type:
                return record["driver_filename"].rsplit("/", 1)[1][:-len("SR")]
        raise Failure("SR_UNKNOWN_DRIVER", sr_type)

    def is_supported(self, sr_type):
        """Is there a driver for this type of SR?"""
        return bool(self._pool.database.where("SM", type=sr_type))


def _answer(ended, members):
    """What a driver answered. Raises SR_BACKEND_FAILURE_<code> ["", text, stderr] for its fault, SR_BACKEND_FAILURE
    [reason, stdout, stderr] where it answered nothing of use."""
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
        raise Failure("SR_BACKEND_FAILURE", "", "XML parse failure: <struct> missing field: %s" % name, "")
    return answer[name]
