# SPDX-License-Identifier: LGPL-2.1-only
"""Clears the tags that a host left in the sm_config of VDIs which it no longer has active."""

import XenAPI

from sm.core import util
from sm.core.lock import Lock
from sm.qcow2util import LOCK_TYPE_SR


def reset_sr(session, host_uuid, sr_uuid, is_sr_master):
    """When a host plugs an SR it has none of its VDIs active: forget that it had. The master also
    unpauses all."""
    lock = Lock(LOCK_TYPE_SR, sr_uuid)
    lock.acquire()
    try:
        host_key = "host_%s" % session.xenapi.host.get_by_uuid(host_uuid)
        stale = [host_key] + (["paused"] if is_sr_master else [])
        sr_ref = session.xenapi.SR.get_by_uuid(sr_uuid)
        for vdi_ref, vdi in session.xenapi.VDI.get_all_records_where(
            'field "SR" = "%s"' % sr_ref
        ).items():
            for key in stale:
                if key in vdi["sm_config"]:
                    util.SMlog("Clearing %s of VDI %s" % (key, vdi["uuid"]))
                    session.xenapi.VDI.remove_from_sm_config(vdi_ref, key)
    finally:
        lock.release()


def reset_vdi(session, vdi_uuid, force, term_output=False, writable=True):
    """Clear the tags of hosts which, asked, do not have the VDI open. Returns whether it may now be
    activated."""
    vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
    vdi = session.xenapi.VDI.get_record(vdi_ref)
    clean = True
    for key in [key for key in vdi["sm_config"] if key.startswith("host_")]:
        if force or not _is_open(session, key[len("host_") :], vdi_uuid, vdi["SR"]):
            session.xenapi.VDI.remove_from_sm_config(vdi_ref, key)
        elif writable:
            return False
        else:
            clean = False
    return clean


def _is_open(session, host_ref, vdi_uuid, sr_ref):
    """Whether a host has the VDI open. One that is no longer of the pool does not."""
    try:
        session.xenapi.host.get_uuid(host_ref)
    except XenAPI.Failure as failure:
        if failure.details[0] != "HANDLE_INVALID":
            raise
        return False
    answer = session.xenapi.host.call_plugin(
        host_ref, "on-slave", "is_open", {"vdiUuid": vdi_uuid, "srRef": sr_ref}
    )
    return answer != "False"
