# SPDX-License-Identifier: LGPL-2.1-only
"""What a xapi makes of its database when it starts: it may be older than what runs
(dbsync_slave.ml, storage_access.ml, xapi_xenops.ml)."""

import logging
import threading

from lab.xapi import rrd_service, sr, vdi, vm_lifecycle, xenops
from lab.xapi.automaton import DETACHED
from lab.xapi.failures import Failure
from lab.xapi.host_work import XENOPSD_AWAY
from lab.xapi.schema import NULL

_LOCKED = "host_"  # key of a VDI's sm_config, with a host's ref: SM has it active there
_TRY = 0.2  # seconds
_DEBUG = "lab-xapi startup"
EVENTS = "/run/xapi.events"  # the lab's own: what has become of the listening to xenopsd
STARTING, LISTENING, DEAF = "starting", "listening", "deaf"

log = logging.getLogger("xapi.startup")


def allow_operations(database):
    """Which operations are allowed, and which go on, is not on disk: what a xapi that starts finds
    out again."""
    for class_name, operations in (("SR", sr.OPERATIONS), ("VDI", vdi.OPERATIONS)):
        for ref in database.refs(class_name):
            database.set(class_name, ref, allowed_operations=operations)
    vm_lifecycle.watch(database)


def release_locks(database):
    """Nothing is attached to a VM that is halted, and no host keeps room for one that was about to
    come (dbsync_master.ml)."""
    for ref, record in database.records("VM").items():
        if record["power_state"] == "Halted":
            vm_lifecycle.reset(database, ref)
        database.set("VM", ref, scheduled_to_be_resident_on=NULL)


# --- storage


def open_storage(pool, host):
    """The storage of `host`, whose xapi starts, before its database is up to date (xapi.ml,
    start_smapiv1_servers): what the xapi before was having SM activate is done again. What xenopsd
    asks waits (since 382c16b565; in versions before it does not)."""
    pool.storage.close_layer(host)
    pool.storage.hear(host, False)
    pool.storage.serve_layer(host, pool.storage.open_layer(host))
    pool.storage.activate_again(host)


def synchronise_storage(pool, host):
    """Bring the database up to date with what the memory of `host` says of its storage, and take
    what its xenopsd asks."""
    layer = pool.storage.layer(host)
    resynchronise_pbds(pool.database, host, layer.srs())
    refresh_local_vdi_activations(pool, host, layer)
    pool.storage.hear(host, True)


def resynchronise_pbds(database, host, attached):
    """A PBD is plugged if its SR is among those (UUIDs) that are attached."""
    for pbd in database.where("PBD", host=host):
        plugged = database.get("SR", database.get("PBD", pbd, "SR"), "uuid") in attached
        database.set("PBD", pbd, currently_attached=plugged)


def refresh_local_vdi_activations(pool, host, layer):
    """Make the marks of `host` in every VDI's sm_config anew, and take away those of hosts that are
    not in the pool. `paused` and whatever else SM or anybody has written there stays as it was on
    disk. How a VDI is, is asked with its lock (DP.stat_vdi): an activation that is under way is
    waited for, as long as SM waits for its gate.

    It goes by the records as they were at its begin, as the real one does. A VDI that has gone
    since, by a command of SM's that outlived the xapi before, is told of in the log
    (storage_access.ml)."""
    database = pool.database
    for ref, record in database.records("VDI").items():
        sr_uuid = (
            database.get("SR", record["SR"], "uuid") if database.exists("SR", record["SR"]) else ""
        )
        state = DETACHED
        if sr_uuid in layer.srs():
            with pool.storage.exclusively(ref):
                state = layer.state(sr_uuid, record["location"])
                layer.remember(sr_uuid, record["location"])
        try:
            _make_marks_anew(database, host, ref, record, state)
        except Failure:
            log.exception("failed to lock or unlock VDI %s", ref)


def _make_marks_anew(database, host, vdi, record, state):
    known, own = {_LOCKED + other for other in database.refs("host")}, _LOCKED + host
    locks = {key for key in record["sm_config"] if key.startswith(_LOCKED)}
    if state.level == "activated":
        if own not in locks:
            log.info("VDI %s is active on this host", vdi)
            database.add_to("VDI", vdi, "sm_config", own, state.mode)
    elif own in locks or locks and not locks & known:
        log.info("VDI %s is not active on this host any more", vdi)
        for key in locks:
            database.remove_from("VDI", vdi, "sm_config", key)


def plug_all(pool, host):
    """Plug the host's PBDs that are not: after a boot all of them, each of which has sm forget what
    the host had active. One that fails stays unplugged."""
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
    """In the background, as xapi serves already: `resync_resident_on`, and only then listen to
    xenopsd of `host`, which tells of all its VMs at first (on_xapi_restart). What fails in it ends
    it, with a line in the log: xapi hears nothing of xenopsd then, until it is started again.
    EVENTS of that host says which."""
    _say(pool, host, STARTING)
    threading.Thread(
        target=_resynchronise_vms, args=(pool, host), name="resync", daemon=True
    ).start()


def _resynchronise_vms(pool, host):
    try:
        listed = _ask(pool, host, "VM.list")
        resync_resident_on(
            pool, host, {metadata["id"]: state["power_state"] for metadata, state in listed}
        )
        pool.on_host(host, "listen")
        _say(pool, host, LISTENING)
    except Failure as failure:
        log.warning("task [resynchronising VM state] exception: %s", failure)
        _say(pool, host, DEAF)
        return
    for vm in pool.database.where("VM", resident_on=host, is_control_domain=False):
        try:
            xenops.update_vm(pool, vm, host)
        except Failure as failure:
            log.error("xenopsd event: Caught %s while updating VM", failure)


def _say(pool, host, state):
    try:
        pool.on_host(host, "keep", path=EVENTS, text=state)
    except Failure as failure:  # it is away again
        log.warning("%s: %s", host, failure)


def _ask(pool, host, method, **members):
    """Call xenopsd of `host`. One that is away is waited for, as it is by whoever calls it over the
    message switch."""
    while True:
        try:
            return pool.on_host(
                host, "xenops", method=method, members=dict(members, debug_info=_DEBUG)
            )
        except Failure as failure:
            away = failure.code == "INTERNAL_ERROR" and failure.description[1].startswith(
                XENOPSD_AWAY
            )
            if not away or pool.stopping.wait(_TRY):
                raise


def resync_resident_on(pool, host, listed):
    """Make the database and xenopsd of `host` agree which VMs are there: one that the database does
    not know, or knows on another host of the pool, is shut down and forgotten by xenopsd; one that
    is resident nowhere is so here; one that xenopsd does not have is halted."""
    database = pool.database
    resident = set(database.where("VM", resident_on=host, is_control_domain=False))
    known = {identity: database.find_uuid("VM", identity) for identity in listed}
    elsewhere = {
        identity
        for identity, vm in known.items()
        if vm
        and vm not in resident
        and database.exists("host", database.get("VM", vm, "resident_on"))
    }
    adopted = [
        vm
        for identity, vm in known.items()
        if vm and vm not in resident and identity not in elsewhere
    ]
    missing = resident - set(known.values())
    for identity in [identity for identity, vm in known.items() if vm is None] + sorted(elsewhere):
        _terminate(pool, host, identity, listed[identity])
    for vm in adopted:
        log.info("VM %s is resident here, as xenopsd knows it", vm)
        database.set("VM", vm, resident_on=host)
    for vm in missing:
        log.info("VM %s was resident here, and xenopsd does not know it: it is halted", vm)
        vm_lifecycle.reset(database, vm)
        rrd_service.archive(pool, host, database.get("VM", vm, "uuid"))


def _terminate(pool, host, identity, power_state):
    """Raises Does_not_exist where xenopsd has ended and forgotten the VM by itself meanwhile."""
    log.info("VM %s is known to xenopsd but isn't supposed to be: terminating", identity)
    if power_state != "Halted":
        task = _ask(pool, host, "VM.shutdown", id=identity)
        # how it ends is not looked at
        while _ask(pool, host, "Task.stat", id=task)["state"][0] == "Pending":
            pool.stopping.wait(_TRY)
    _ask(pool, host, "VM.remove", id=identity)
