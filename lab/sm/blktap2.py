# SPDX-License-Identifier: LGPL-2.1-only
"""Activation: a VDI's tapdisk, and who may run it."""

import functools
import time
import xmlrpc.client

import XenAPI

from sm import VDI as sm, resetvdis
from sm.core import util, xs_errors
from sm.core.lock import Lock
from sm.links import NBDLink, PhyLink
from sm.pausing import Pausing
from sm.tapdisk import (
    TapCtl,
    Tapdisk,
    TapdiskExists,
    TapdiskFailed,
    TapdiskInvalidState,
    TapdiskNotRunning,
    TapdiskNotUnique,
)

try:
    from sm import online
except ImportError:  # not XCP-ng's
    online = None


def locking(excType):
    """Run a method under its object's `lock`; the storage manager's own exceptions become a
    XenError `excType`."""

    def decorate(op):
        @functools.wraps(op)
        def wrapper(self, *args):
            self.lock.acquire()
            try:
                return op(self, *args)
            except (util.SMException, XenAPI.Failure) as error:
                util.logException("BLKTAP2:%s" % op.__name__)
                raise xs_errors.XenError(excType, opterr=str(error))
            finally:
                self.lock.release()

        return wrapper

    return decorate


class VDI(Pausing):
    """A driver's VDI with a tapdisk on top: what xapi's attach, activate, deactivate and detach
    run."""

    CONF_KEY_ALLOW_CACHING = "vdi_allow_caching"
    CONF_KEY_MODE_ON_BOOT = "vdi_on_boot"
    CONF_KEY_CACHE_SR = "local_cache_sr"
    CONF_KEY_O_DIRECT = "o_direct"
    ATTACH_DETACH_RETRY_SECS = 120
    TAP_TYPES = {
        "raw": "aio",
        "vhd": "vhd",
        "qcow2": "qcow2",
        "iso": "aio",
        "aio": "aio",
        "file": "aio",
    }

    PhyLink = PhyLink
    NBDLink = NBDLink

    class TargetDriver(object):
        """The driver's VDI; its optional calls only if the driver says that it has them."""

        def __init__(self, vdi, driver_info):
            self.vdi = vdi
            self._caps = driver_info["capabilities"]

        def has_cap(self, cap):
            """Whether the driver has a capability."""
            return cap in self._caps

        def attach(self, sr_uuid, vdi_uuid):
            """Make the image accessible on this host."""
            return self.vdi.attach(sr_uuid, vdi_uuid)

        def detach(self, sr_uuid, vdi_uuid):
            """Undo attach."""
            self.vdi.detach(sr_uuid, vdi_uuid)

        def activate(self, sr_uuid, vdi_uuid):
            """Called before a tapdisk opens the image. May return options for it."""
            if self.has_cap("VDI_ACTIVATE"):
                return self.vdi.activate(sr_uuid, vdi_uuid)
            return None

        def deactivate(self, sr_uuid, vdi_uuid):
            """Called after the tapdisk closed the image."""
            if self.has_cap("VDI_DEACTIVATE"):
                self.vdi.deactivate(sr_uuid, vdi_uuid)

        def get_vdi_type(self):
            """The image's type, as drivers name it."""
            return self.vdi.vdi_type or self.vdi.sr.sr_vditype

        def get_vdi_path(self):
            """Where the image is."""
            return self.vdi.path

    def __init__(self, uuid, target, driver_info):
        self.target = self.TargetDriver(target, driver_info)
        self._vdi_uuid = uuid
        self._session = target.session
        self.xenstore_data = {"scsi/0x12/0x80": uuid, "storage-type": "ext"}
        self.lock = Lock("vdi", uuid)
        self.tap = None

    @staticmethod
    def _tap_type(vdi_type):
        """A driver's name of an image type, as tapdisk names it."""
        return VDI.TAP_TYPES[vdi_type]

    def get_tap_type(self):
        """The image's type, as tapdisk names it."""
        return VDI._tap_type(self.target.get_vdi_type())

    def tap_wanted(self):
        """Whether this VDI runs by a tapdisk: here all do."""
        return True

    # The tags in sm_config: `activating` while a host is about to, host_<ref> while it has it
    # active.

    def _add_tag(self, vdi_uuid, writable):
        """Claim the VDI for this host. False: not now, try again. Raises if another has it."""
        mode = "RW" if writable else "RO"
        vdi_api = self._session.xenapi.VDI
        vdi_ref = vdi_api.get_by_uuid(vdi_uuid)
        host_key = "host_%s" % util.get_localhost_ref(self._session)
        sm_config = vdi_api.get_sm_config(vdi_ref)
        attached_as = util.attached_as(sm_config)
        if attached_as == "RW" or (attached_as == "RO" and mode == "RW"):
            if not resetvdis.reset_vdi(self._session, vdi_uuid, force=False, writable=writable):
                raise util.SMException("VDI %s not detached cleanly" % vdi_uuid)
            sm_config = vdi_api.get_sm_config(vdi_ref)
        if "paused" in sm_config or "relinking" in sm_config:
            util.SMlog("%s is paused: %s" % (vdi_uuid, sm_config))
            return False
        try:
            vdi_api.add_to_sm_config(vdi_ref, "activating", "True")
        except XenAPI.Failure as failure:
            if failure.details[0] == "MAP_DUPLICATE_KEY" and not writable:
                return False  # another host is activating it read-only, too
            raise
        assert host_key not in sm_config, "%s is active here already" % vdi_uuid
        vdi_api.add_to_sm_config(vdi_ref, host_key, mode)
        sm_config = vdi_api.get_sm_config(vdi_ref)
        if "paused" in sm_config or "relinking" in sm_config:  # it was paused just now: back out
            vdi_api.remove_from_sm_config(vdi_ref, host_key)
            vdi_api.remove_from_sm_config(vdi_ref, "activating")
            return False
        return True

    def _check_tag(self, vdi_uuid):
        """Whether the VDI may be deactivated now: it is not paused."""
        vdi_ref = self._session.xenapi.VDI.get_by_uuid(vdi_uuid)
        return "paused" not in self._session.xenapi.VDI.get_sm_config(vdi_ref)

    def _remove_tag(self, vdi_uuid):
        """Take this host's claim away, if it is there."""
        vdi_ref = self._session.xenapi.VDI.get_by_uuid(vdi_uuid)
        host_key = "host_%s" % util.get_localhost_ref(self._session)
        if host_key in self._session.xenapi.VDI.get_sm_config(vdi_ref):
            self._session.xenapi.VDI.remove_from_sm_config(vdi_ref, host_key)

    # The four calls of xapi.

    def attach(self, sr_uuid, vdi_uuid, writable, activate=False, caching_params={}):  # noqa: B006
        """How to reach the VDI once it is active, as an XML-RPC answer."""
        if not self.target.has_cap("ATOMIC_PAUSE") or activate:
            self._attach(sr_uuid, vdi_uuid)
            self._activate(sr_uuid, vdi_uuid, {"rdonly": not writable})
            self.linkNBD(sr_uuid, vdi_uuid)
        nbd = "nbd:unix:%s:exportname=%s" % (
            self.NBDLink.from_uuid(sr_uuid, vdi_uuid).path(),
            vdi_uuid,
        )
        struct = {
            "params_nbd": nbd,
            "o_direct": True,
            "o_direct_reason": "SR_NOT_SUPPORTED",
            "xenstore_data": self.xenstore_data,
        }
        return xmlrpc.client.dumps((struct,), "", True)

    def activate(self, sr_uuid, vdi_uuid, writable, caching_params):
        """Claim the VDI and run its tapdisk. While it is paused this waits, asking every second,
        for 120 s."""
        options = {"rdonly": not writable}
        options.update(caching_params)
        self._retry(vdi_uuid, self._activate_locked, sr_uuid, vdi_uuid, options)

    def deactivate(self, sr_uuid, vdi_uuid, caching_params):
        """Undo activate; waits likewise."""
        self._retry(vdi_uuid, self._deactivate_locked, sr_uuid, vdi_uuid, caching_params)

    def _retry(self, vdi_uuid, attempt, *args):
        for _ in range(self.ATTACH_DETACH_RETRY_SECS):
            try:
                if attempt(*args):
                    return
            except util.SRBusyException:
                util.SMlog("SR locked, retrying")
            time.sleep(1)
        raise util.SMException("VDI %s locked" % vdi_uuid)

    @locking("VDIUnavailable")
    def _activate_locked(self, sr_uuid, vdi_uuid, options):
        if not self._add_tag(vdi_uuid, not options["rdonly"]):
            return False
        try:
            self._reload(vdi_uuid)
            if self.target.has_cap("ATOMIC_PAUSE"):
                self._attach(sr_uuid, vdi_uuid)
            if online:
                online.give_up_below(self._session, self.target.vdi.sr, self.target.get_vdi_path())
            self._activate(sr_uuid, vdi_uuid, options)
        except BaseException:
            self._remove_tag(vdi_uuid)
            raise
        finally:
            vdi_ref = self._session.xenapi.VDI.get_by_uuid(vdi_uuid)
            self._session.xenapi.VDI.remove_from_sm_config(vdi_ref, "activating")
        self.linkNBD(sr_uuid, vdi_uuid)
        return True

    def _reload(self, vdi_uuid):
        """Look at the VDI anew: its size or its image may have changed while it was paused."""
        params = self.target.vdi.sr.srcmd.params
        target = sm.VDI.from_uuid(self._session, vdi_uuid)
        target.sr.srcmd.params = params
        self.target = self.TargetDriver(target, target.sr.srcmd.driver_info)

    def _attach(self, sr_uuid, vdi_uuid):
        struct = xmlrpc.client.loads(self.target.attach(sr_uuid, vdi_uuid))[0][0]
        self.xenstore_data.update(struct["xenstore_data"])
        self.PhyLink.from_uuid(sr_uuid, vdi_uuid).mklink(struct["params"])

    def _activate(self, sr_uuid, vdi_uuid, options):
        options.update(self.target.activate(sr_uuid, vdi_uuid) or {})
        path = self.PhyLink.from_uuid(sr_uuid, vdi_uuid).readlink()
        self.tap = Tapdisk.find_by_path(path) or Tapdisk.launch(
            path, self.get_tap_type(), options["rdonly"], options.get("cbtlog")
        )
        return path

    def linkNBD(self, sr_uuid, vdi_uuid):
        """Give the tapdisk's NBD socket its well-known name."""
        if self.tap:
            self.NBDLink.from_uuid(sr_uuid, vdi_uuid).mklink(self.tap.nbd_socket())

    @locking("VDIUnavailable")
    def _deactivate_locked(self, sr_uuid, vdi_uuid, caching_params):
        if not self._check_tag(vdi_uuid):
            return False
        self._deactivate(sr_uuid, vdi_uuid, caching_params)
        if self.target.has_cap("ATOMIC_PAUSE"):
            self._detach(sr_uuid, vdi_uuid)
        self._remove_tag(vdi_uuid)
        return True

    def _deactivate(self, sr_uuid, vdi_uuid, caching_params):
        link = self.NBDLink.from_uuid(sr_uuid, vdi_uuid)
        if not util.pathexists(link.path()):
            util.SMlog("Nbd path %s does not exist" % link.path())
            return
        try:
            Tapdisk.from_minor(link.read_minor_from_path()).shutdown()
        except TapdiskNotRunning as error:
            util.SMlog("tap.deactivate: Warning, %s" % error)
        link.unlink()
        self.target.deactivate(sr_uuid, vdi_uuid)

    def _detach(self, sr_uuid, vdi_uuid):
        self.target.detach(sr_uuid, vdi_uuid)
        self.PhyLink.from_uuid(sr_uuid, vdi_uuid).unlink()

    def detach(self, sr_uuid, vdi_uuid, deactivate=False, caching_params={}):  # noqa: B006
        """Undo attach: nothing is left to do, for a driver that attaches on activation
        (ATOMIC_PAUSE)."""
        if not self.target.has_cap("ATOMIC_PAUSE") or deactivate:
            self._deactivate(sr_uuid, vdi_uuid, caching_params)
            self._detach(sr_uuid, vdi_uuid)
