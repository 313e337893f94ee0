# SPDX-License-Identifier: LGPL-2.1-only
"""Changed blocks of a VDI, and their logs, `<uuid>.cbtlog`: upstream has it in VDI.VDI.

A disk is tracked if its log is there. While it is active read-write its tapdisk has the log open,
which is inconsistent then: if it is that still at the next activation, nothing is known of what has
changed, and it goes. A snapshot takes the log, and the disk gets a new one, its child. Of a
snapshot whose data are destroyed the log stays, as a VDI of type cbt_metadata."""

import os

from sm import cbtutil
from sm.core import util, xs_errors
from sm.core.lock import Lock

CAPABILITY = "VDI_CONFIG_CBT"
RAW = "raw"


class Tracked(object):
    """What VDI.VDI has of it. A driver with the capability has `_create_cbt_log`,
    `_delete_cbt_log`, `_cbt_log_exists` and `_rename`."""

    def _get_cbt_logname(self, uuid):
        return "%s.%s" % (uuid, cbtutil.CBTLOG_TAG)

    def _get_cbt_logpath(self, uuid):
        return os.path.join(self.sr.path, self._get_cbt_logname(uuid))

    def _get_blocktracking_status(self, uuid=None):
        """Whether it is tracked. Upstream asks xapi first what the driver can do, at each
        activation of each disk."""
        return (
            self.vdi_type != RAW
            and self._cbt_log_exists(self._get_cbt_logpath(uuid or self.uuid))
            and CAPABILITY in util.sr_get_capability(self.sr.uuid, session=self.sr.session)
        )

    def _cbt_log_exists(self, logpath):
        """Of a driver without the capability there are none."""
        return False

    def _delete_cbt_log(self):
        raise xs_errors.XenError("Unimplemented")

    def _rename(self, old, new):
        raise xs_errors.XenError("Unimplemented")

    def _ensure_cbt_space(self):
        """Raises unless there is room for a log."""

    def _activate_cbt_log(self, logname):
        """Make it accessible, where logs are volumes. Returns whether it was not."""
        return False

    def _deactivate_cbt_log(self, logname):
        """Undo that."""

    def _create_cbt_log(self):
        logpath = self._get_cbt_logpath(self.uuid)
        size = self.session.xenapi.VDI.get_virtual_size(self.sr.srcmd.params["vdi_ref"])
        try:
            self._cbt_op(self.uuid, cbtutil.create_cbt_log, logpath, size)
            self._cbt_op(self.uuid, cbtutil.set_cbt_consistency, logpath, True)
        except Exception:
            self._delete_cbt_log()
            raise
        return logpath

    def _cbt_op(self, uuid, func, *args):
        lock = Lock("cbtlog", str(uuid))
        lock.acquire()
        try:
            logname = self._get_cbt_logname(uuid)
            activated = self._activate_cbt_log(logname)
            answer = func(*args)
            if activated:
                self._deactivate_cbt_log(logname)
            return answer
        finally:
            lock.release()

    def configure_blocktracking(self, sr_uuid, vdi_uuid, enable):
        """Begin to track it, or end that, with its tapdisks paused, wherever they are."""
        from sm import blktap2  # which imports this module

        if self.vdi_type == RAW or self.session.xenapi.VDI.get_is_a_snapshot(
            self.sr.srcmd.params["vdi_ref"]
        ):
            raise xs_errors.XenError("VDIType", opterr="Raw VDI or snapshot not permitted")
        if self._get_blocktracking_status() == enable:
            return
        active = blktap2.VDI.tap_status(self.session, vdi_uuid)
        if not blktap2.VDI.tap_pause(self.session, sr_uuid, vdi_uuid):
            raise xs_errors.XenError(
                "CBTActivateFailed", opterr="Failed to pause VDI %s" % vdi_uuid
            )
        try:
            if enable:
                self._begin_tracking(active)
            else:
                self._end_tracking()
        finally:
            blktap2.VDI.tap_unpause(self.session, sr_uuid, vdi_uuid)

    def _begin_tracking(self, active):
        try:
            self._ensure_cbt_space()
            logpath = self._create_cbt_log()
            if active:
                self._cbt_op(self.uuid, cbtutil.set_cbt_consistency, logpath, False)
        except Exception as error:
            self._delete_cbt_log()
            raise xs_errors.XenError("CBTActivateFailed", opterr=str(error))

    def _end_tracking(self):
        try:
            parent = self._cbt_op(
                self.uuid, cbtutil.get_cbt_parent, self._get_cbt_logpath(self.uuid)
            )
            self._delete_cbt_log()
            parent_path = self._get_cbt_logpath(parent)
            if self._cbt_log_exists(parent_path):
                self._cbt_op(parent, cbtutil.set_cbt_child, parent_path, cbtutil.NOBODY)
        except Exception as error:
            raise xs_errors.XenError("CBTDeactivateFailed", str(error))

    def data_destroy(self, sr_uuid, vdi_uuid):
        """Remove the data of a snapshot, and keep its log."""
        if not self.session.xenapi.VDI.get_is_a_snapshot(self.sr.srcmd.params["vdi_ref"]):
            raise xs_errors.XenError("VDIType", opterr="Only allowed for snapshot VDIs")
        self.delete(sr_uuid, vdi_uuid, data_only=True)

    def activate(self, sr_uuid, vdi_uuid):
        """Called before a tapdisk opens the image. May return options for it."""
        if not self._get_blocktracking_status():
            return None
        args = self.sr.srcmd.params.get("args")
        if args and args[0] == "false":
            return None  # read-only
        logpath = self._get_cbt_logpath(vdi_uuid)
        self._activate_cbt_log(self._get_cbt_logname(vdi_uuid))
        if not self._cbt_op(vdi_uuid, cbtutil.get_cbt_consistency, logpath):
            self._disable_cbt_on_error(
                "VDI_CBT_METADATA_INCONSISTENT",
                "Changed Block Tracking metadata is inconsistent for disk %s." % vdi_uuid,
            )
            return None
        self._cbt_op(self.uuid, cbtutil.set_cbt_consistency, logpath, False)
        return {"cbtlog": logpath}

    def deactivate(self, sr_uuid, vdi_uuid):
        """Called after the tapdisk closed the image."""
        if self._get_blocktracking_status():
            logpath = self._get_cbt_logpath(vdi_uuid)
            self._cbt_op(vdi_uuid, cbtutil.set_cbt_consistency, logpath, True)
            self._deactivate_cbt_log(self._get_cbt_logname(vdi_uuid))

    def resize_cbt(self, sr_uuid, vdi_uuid, size):
        """The disk has grown."""
        try:
            if self._get_blocktracking_status():
                logpath = self._get_cbt_logpath(vdi_uuid)
                self._cbt_op(vdi_uuid, cbtutil.set_cbt_size, logpath, size)
        except util.CommandException:
            self._disable_cbt_on_error(
                "VDI_CBT_RESIZE_FAILED", "Resizing of CBT metadata for disk %s failed." % vdi_uuid
            )

    def _delete_tracking(self, sr_uuid, vdi_uuid):
        """The disk is gone: what its log says goes to that of its child."""
        from sm import blktap2

        if not self._get_blocktracking_status():
            return
        logpath = self._get_cbt_logpath(vdi_uuid)
        parent = self._cbt_op(vdi_uuid, cbtutil.get_cbt_parent, logpath)
        child = self._cbt_op(vdi_uuid, cbtutil.get_cbt_child, logpath)
        parent_path, child_path = self._get_cbt_logpath(parent), self._get_cbt_logpath(child)
        if self._cbt_log_exists(parent_path):
            self._cbt_op(parent, cbtutil.set_cbt_child, parent_path, child)
        if self._cbt_log_exists(child_path):
            self._cbt_op(child, cbtutil.set_cbt_parent, child_path, parent)
            paused = False
            try:
                if not self._cbt_op(child, cbtutil.get_cbt_consistency, child_path):
                    if not blktap2.VDI.tap_pause(self.session, sr_uuid, child):
                        raise util.SMException("failed to pause VDI %s" % child)
                    paused = True
                self._cbt_op(child, cbtutil.coalesce_bitmap, logpath, child_path)
            finally:
                if paused:
                    blktap2.VDI.tap_unpause(self.session, sr_uuid, child)
        self._delete_cbt_log()
        Lock.cleanupAll(vdi_uuid)

    def _cbt_snapshot(self, snapshot_uuid, consistent):
        """The log becomes the snapshot's, and the disk gets another one. `consistent`: whether the
        disk is active nowhere."""
        ours, its = self._get_cbt_logpath(self.uuid), self._get_cbt_logpath(snapshot_uuid)
        self._rename(ours, its)
        self._cbt_op(snapshot_uuid, cbtutil.set_cbt_consistency, its, True)
        parent = self._cbt_op(snapshot_uuid, cbtutil.get_cbt_parent, its)
        parent_path = self._get_cbt_logpath(parent)
        if self._cbt_log_exists(parent_path):
            self._cbt_op(parent, cbtutil.set_cbt_child, parent_path, snapshot_uuid)
        try:
            self._ensure_cbt_space()
            self._create_cbt_log()
            if not consistent:
                self._cbt_op(self.uuid, cbtutil.set_cbt_consistency, ours, False)
            child = self._cbt_op(snapshot_uuid, cbtutil.get_cbt_child, its)
            self._cbt_op(self.uuid, cbtutil.set_cbt_parent, ours, snapshot_uuid)
            self._cbt_op(self.uuid, cbtutil.set_cbt_child, ours, child)
            self._cbt_op(snapshot_uuid, cbtutil.set_cbt_child, its, self.uuid)
        except Exception:
            self._disable_cbt_on_error(
                "VDI_CBT_SNAPSHOT_FAILED",
                "Creating CBT metadata log for disk %s failed." % self.uuid,
            )

    def _disable_cbt_on_error(self, alert, text):
        util.SMlog(text)
        self._delete_cbt_log()
        self.session.xenapi.VDI.set_cbt_enabled(self.sr.srcmd.params["vdi_ref"], False)
        self.session.xenapi.message.create(alert, "3", "VDI", str(self.uuid), text)
