"""What a xapi makes of its database when it starts: after a restart of its own, and after a boot of its host (dbsync)."""
import logging
import os
import threading
import time

from lab.xapi import sr, vdi, vm_lifecycle, xenops
from lab.xapi.failures import Failure

_BOOTED = "/run/lab-booted"     # in memory only on a real host: it is not there after a boot
_PATIENCE = 60.0                # seconds that xenopsd may take to be up
_TRY = 0.5

log = logging.getLogger("xapi.startup")


def has_booted(root):
    """Whether this is the first xapi since the boot of the host at `root`; the next one is not."""
    if os.path.exists(root + _BOOTED):
        return False
    os.makedirs(root + "/run", exist_ok=True)
    with open(root + _BOOTED, "w", encoding="utf-8"):
        return True


def allow_operations(database):
    """Which operations are allowed, and which go on, is not on disk: what a xapi that starts finds out again."""
    for class_name, operations in (("SR", sr.OPERATIONS), ("VDI", vdi.OPERATIONS)):
        for ref in database.refs(class_name):
            database.set(class_name, ref, allowed_operations=operations)
    vm_lifecycle.watch(database)


def after_boot(pool, host):
    """Nothing of what ran on `host` runs, and nothing is attached to it."""
    database = pool.database
    for vm in database.where("VM", resident_on=host, is_control_domain=False):
        vm_lifecycle.reset(database, vm)
    for pbd in database.where("PBD", host=host):
        database.set("PBD", pbd, currently_attached=False)


def plug_all(pool, host):
    """Plug the host's PBDs, each of which has sm forget what the host had active. One that fails stays unplugged."""
    database = pool.database
    for pbd in database.where("PBD", host=host):
        if not database.get("PBD", pbd, "currently_attached"):
            sr = database.get("PBD", pbd, "SR")
            try:
                with pool.storage.exclusively(sr):
                    pool.storage.run_sr(sr, "sr_attach", host=host)
                    database.set("PBD", pbd, currently_attached=True)
            except Failure:
                log.exception("PBD of SR %s stays unplugged", sr)


def ask_xenopsd(pool, host):
    """In the background: take over how the VMs of `host` are, since xapi has heard nothing while it was away."""
    threading.Thread(target=_ask_xenopsd, args=(pool, host), name="ask-xenopsd", daemon=True).start()


def _ask_xenopsd(pool, host):
    deadline = time.monotonic() + _PATIENCE
    while not pool.stopping.is_set():
        try:
            known = {metadata["id"] for metadata, _ in pool.on_host(host, "xenops", method="VM.list", members={"debug_info": "startup"})}
            vms = set(pool.database.where("VM", resident_on=host, is_control_domain=False))
            vms |= {pool.database.find_uuid("VM", uuid) for uuid in known} - {None}
            for vm in vms:
                xenops.refresh(pool, vm, host)
            return
        except Failure as failure:
            if time.monotonic() > deadline:
                log.error("xenopsd of %s does not answer: %s", host, failure)
                return
        time.sleep(_TRY)
