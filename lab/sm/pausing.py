# SPDX-License-Identifier: LGPL-2.1-only
"""Pausing a VDI's tapdisks, on whichever hosts it is active: upstream has it in blktap2.VDI."""

from sm.core import util

PLUGIN_TAP_PAUSE = "tapdisk-pause"


class Pausing(object):
    """What blktap2.VDI has of it. `paused` in the VDI's sm_config keeps every host from activating
    it meanwhile."""

    @classmethod
    def _hosts(cls, session, vdi_uuid):
        sm_config = session.xenapi.VDI.get_sm_config(session.xenapi.VDI.get_by_uuid(vdi_uuid))
        return [key[len("host_") :] for key in sm_config if key.startswith("host_")]

    @classmethod
    def tap_pause(cls, session, sr_uuid, vdi_uuid, failfast=False):
        """Pause the VDI's tapdisks. Returns False, with nothing changed, if one could not be
        paused."""
        vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
        session.xenapi.VDI.add_to_sm_config(vdi_ref, "paused", "true")
        for host_ref in cls._hosts(session, vdi_uuid):
            if not cls.call_pluginhandler(
                session, host_ref, sr_uuid, vdi_uuid, "pause", failfast=failfast
            ):
                session.xenapi.VDI.remove_from_sm_config(vdi_ref, "paused")
                return False
        return True

    @classmethod
    def tap_unpause(cls, session, sr_uuid, vdi_uuid, secondary=None, activate_parents=False):
        """Let the VDI's tapdisks go on, with `secondary` as their mirror. Returns False if one
        would not."""
        for host_ref in cls._hosts(session, vdi_uuid):
            if not cls.call_pluginhandler(
                session, host_ref, sr_uuid, vdi_uuid, "unpause", secondary, activate_parents
            ):
                return False
        session.xenapi.VDI.remove_from_sm_config(session.xenapi.VDI.get_by_uuid(vdi_uuid), "paused")
        return True

    @classmethod
    def tap_refresh(cls, session, sr_uuid, vdi_uuid, activate_parents=False):
        """Make the VDI's tapdisks open their images anew. Returns False if one would not."""
        return all(
            cls.call_pluginhandler(
                session, host_ref, sr_uuid, vdi_uuid, "refresh", None, activate_parents
            )
            for host_ref in cls._hosts(session, vdi_uuid)
        )

    @classmethod
    def tap_status(cls, session, vdi_uuid):
        """Whether the VDI is active anywhere."""
        return bool(cls._hosts(session, vdi_uuid))

    @classmethod
    def call_pluginhandler(
        cls,
        session,
        host_ref,
        sr_uuid,
        vdi_uuid,
        action,
        secondary=None,
        activate_parents=False,
        failfast=False,
    ):
        """Run tapdisk-pause on a host. Returns whether it did what was asked."""
        args = {"sr_uuid": sr_uuid, "vdi_uuid": vdi_uuid, "failfast": str(failfast)}
        if secondary:
            args["secondary"] = secondary
        if activate_parents:
            args["activate_parents"] = "true"
        try:
            return (
                session.xenapi.host.call_plugin(host_ref, PLUGIN_TAP_PAUSE, action, args) == "True"
            )
        except Exception:
            util.logException("BLKTAP2:call_pluginhandler")
            return False
