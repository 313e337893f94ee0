"""What a xapi makes of its database when it starts: it may be older than what runs (dbsync_slave.ml, storage_access.ml, xapi_xenops.ml)."""
import logging
import threading
import time

from lab.xapi import sr, vdi, vm_lifecycle, xenops
from lab.xapi.context import Context
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

_LOCKED = "host_"               # key of a VDI's sm_config, with a host's ref: SM has it active there
_PATIENCE = 60.0                # seconds that xenopsd may take to be up
_TRY = 0.5
_DEBUG = "lab-xapi startup"

log = logging.getLogger("xapi.startup")


def allow_operations(database):
    """Which operations are allowed, and which go on, is not on disk: what a xapi that starts finds out again."""
    for class_name, operations in (("SR", sr.OPERATIONS), ("VDI", vdi.OPERATIONS)):
        for ref in database.refs(class_name):
            database.set(class_name, ref, allowed_operations=operations)
    vm_lifecycle.watch(database)


# --- storage

def open_storage(pool, host):
    """Bring the database up to date with what the memory of `host` says of its storage, serve xenopsd from then on, plug the rest."""
    pool.storage.close_layer(host)
    layer = pool.storage.open_layer(host)
    resynchronise_pbds(pool.database, host, layer.srs())
    refresh_local_vdi_activations(pool.database, host, layer)
    pool.storage.serve_layer(host, layer)
    _plug_all(pool, host)


def resynchronise_pbds(database, host, attached):
    """A PBD is plugged if its SR is among those (UUIDs) that are attached."""
    for pbd in database.where("PBD", host=host):
        plugged = database.get("SR", database.get("PBD", pbd, "SR"), "uuid") in attached
        database.set("PBD", pbd, currently_attached=plugged)


def refresh_local_vdi_activations(database, host, layer):
    """Make the marks of `host` in every VDI's sm_config anew, and take away those of hosts that are not in the pool. `paused` and whatever
    else SM or anybody has written there stays as it was on disk."""
    attached = layer.srs()
    known = {_LOCKED + other for other in database.refs("host")}
    own = _LOCKED + host
    for ref, record in database.records("VDI").items():
        sr_uuid = database.get("SR", record["SR"], "uuid") if database.exists("SR", record["SR"]) else ""
        state = layer.state(sr_uuid, record["location"])
        locks = {key for key in record["sm_config"] if key.startswith(_LOCKED)}
        if sr_uuid in attached and state.level == "activated":
            if own not in locks:
                log.info("VDI %s is active on this host", ref)
                database.add_to("VDI", ref, "sm_config", own, state.mode)
        elif own in locks or locks and not locks & known:
            log.info("VDI %s is not active on this host any more", ref)
            for key in locks:
                database.remove_from("VDI", ref, "sm_config", key)


def _plug_all(pool, host):
    """Plug the host's PBDs that are not: after a boot all of them, each of which has sm forget what the host had active. One that fails
    stays unplugged."""
    database = pool.database
    for pbd in database.where("PBD", host=host):
        if not database.get("PBD", pbd, "currently_attached"):
            repository = database.get("PBD", pbd, "SR")
            try:
                with pool.storage.exclusively(repository):
                    pool.storage.attach_sr(repository, host)
                    database.set("PBD", pbd, currently_attached=True)
            except Failure:
                log.exception("PBD of SR %s stays unplugged", repository)


# --- VMs

def resynchronise_vms(pool, host):
    """In the background, as xapi serves already: `resync_resident_on`, then take over how the VMs of `host` are. What fails in it ends it,
    as in xapi, with a line in the log."""
    threading.Thread(target=_resynchronise_vms, args=(pool, host), name="resync", daemon=True).start()


def _resynchronise_vms(pool, host):
    try:
        listed = _listed(pool, host)
        if listed is not None:
            resync_resident_on(pool, host, listed)
            for vm in pool.database.where("VM", resident_on=host, is_control_domain=False):
                xenops.update_vm(pool, vm, host)
    except Failure:
        log.exception("the VMs of host %s could not be resynchronised", host)


def _listed(pool, host):
    """{id: power state} of all VMs that xenopsd of `host` knows, once it is up; None where it does not come up."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return {metadata["id"]: state["power_state"]
                    for metadata, state in pool.on_host(host, "xenops", method="VM.list", members={"debug_info": _DEBUG})}
        except Failure as failure:
            if time.monotonic() > deadline:
                log.error("xenopsd of %s does not answer: %s", host, failure)
                return None
            if pool.stopping.wait(_TRY):
                return None


def resync_resident_on(pool, host, listed):
    """Make the database and xenopsd of `host` agree which VMs are there: one that the database does not know, or knows on another host of
    the pool, is shut down and forgotten by xenopsd; one that is resident nowhere is so here; one that xenopsd does not have is halted."""
    database = pool.database
    resident = set(database.where("VM", resident_on=host, is_control_domain=False))
    known = {identity: database.find_uuid("VM", identity) for identity in listed}
    elsewhere = {identity for identity, vm in known.items()
                 if vm and vm not in resident and database.exists("host", database.get("VM", vm, "resident_on"))}
    adopted = [vm for identity, vm in known.items() if vm and vm not in resident and identity not in elsewhere]
    missing = resident - set(known.values())
    for identity in [identity for identity, vm in known.items() if vm is None] + sorted(elsewhere):
        _terminate(pool, host, identity, listed[identity])
    for vm in adopted:
        log.info("VM %s is resident here, as xenopsd knows it", vm)
        database.set("VM", vm, resident_on=host)
    for vm in missing:
        log.info("VM %s was resident here, and xenopsd does not know it: it is halted", vm)
        vm_lifecycle.reset(database, vm)


def _terminate(pool, host, identity, power_state):
    log.info("VM %s is known to xenopsd but isn't supposed to be: terminating", identity)
    if power_state != "Halted":
        try:
            xenops.run(Context(pool), host, "VM.shutdown", id=identity)
        except Failure as failure:              # as xapi, which only waits for the task
            log.warning("VM %s: %s", identity, failure)
    pool.on_host(host, "xenops", method="VM.remove", members={"debug_info": _DEBUG, "id": identity})
