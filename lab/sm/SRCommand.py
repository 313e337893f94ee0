# SPDX-License-Identifier: LGPL-2.1-only
"""One call of a driver: what argv[1] asks for, under the right locks, and its answer on stdout."""

import os
import sys
import traceback
import xmlrpc.client

import XenAPI

from sm import blktap2, resetvdis
from sm.core import util, xs_errors

NEEDS_VDI_OBJECT = [
    "vdi_update",
    "vdi_create",
    "vdi_delete",
    "vdi_snapshot",
    "vdi_clone",
    "vdi_resize",
    "vdi_resize_online",
    "vdi_attach",
    "vdi_detach",
    "vdi_activate",
    "vdi_deactivate",
    "vdi_generate_config",
    "vdi_compose",
    "vdi_epoch_begin",
    "vdi_epoch_end",
    "vdi_enable_cbt",
    "vdi_disable_cbt",
    "vdi_data_destroy",
]

EXCEPTION_TYPE = {
    "sr_scan": "SRScan",
    "vdi_create": "VDICreate",
    "vdi_delete": "VDIDelete",
    "vdi_attach": "VDIUnavailable",
    "vdi_detach": "VDIUnavailable",
    "vdi_activate": "VDIUnavailable",
    "vdi_deactivate": "VDIUnavailable",
    "vdi_resize": "VDIResize",
    "vdi_resize_online": "VDIResize",
    "vdi_snapshot": "VDISnapshot",
    "vdi_clone": "VDIClone",
}


class SRCommand(object):
    """A call, as parsed: `cmd` its name, `params` its struct, `dconf` the SR's device_config."""

    def __init__(self, driver_info):
        self.driver_info = driver_info
        self.cmd = None
        self.dconf = ""
        self.sr_uuid = ""
        self.vdi_uuid = None

    def parse(self):
        """Read the call from the command line. Raises BadRequest."""
        try:
            (_, argument) = sys.argv
            (self.params,), self.cmd = xmlrpc.client.loads(os.fsencode(argument))
            self.dconf = self.params["device_config"]
        except Exception as error:  # whatever is wrong with it: the caller gets the one answer
            util.SMlog("Failed to parse commandline; exception = %s" % error)
            raise xs_errors.XenError("BadRequest")
        self.sr_uuid = self.params.get("sr_uuid", "")
        self.vdi_uuid = self.params.get("vdi_uuid")
        if self.vdi_uuid is None and self.cmd == "vdi_create":
            self.vdi_uuid = util.gen_uuid()

    def run_statics(self):
        """Answer the call that needs no SR, and exit."""
        if self.params["command"] == "sr_get_driver_info":
            print(util.sr_get_driver_info(self.driver_info))
            sys.exit(0)

    def run(self, sr):
        """Run the call on an SR. Returns the answer; raises only what `run` of this module knows
        how to tell."""
        try:
            return self._run_locked(sr)
        except (util.SMException, XenAPI.Failure) as error:
            util.logException(self.cmd)
            raise xs_errors.XenError(EXCEPTION_TYPE.get(self.cmd, "SMGeneral"), opterr=str(error))
        except blktap2.TapdiskFailed as error:
            util.logException(self.cmd)
            raise xs_errors.XenError(
                "TapdiskFailed", os.strerror(error.get_error().get_error_code())
            )
        except blktap2.TapdiskExists as error:
            util.logException(self.cmd)
            raise xs_errors.XenError("TapdiskAlreadyRunning", str(error))

    def _run_locked(self, sr):
        whole = self.cmd in sr.ops_exclusive
        finding = not whole and self.cmd in NEEDS_VDI_OBJECT and "vdi_init" in sr.ops_exclusive
        target = None
        if whole or finding:
            sr.lock.acquire()
        try:
            try:
                if self.cmd in NEEDS_VDI_OBJECT:
                    target = sr.vdi(self.vdi_uuid)
            finally:
                if finding:
                    sr.lock.release()
            return self._run(sr, target)
        finally:
            if whole:
                sr.lock.release()
            sr.cleanup()

    def _run(self, sr, target):
        logged = util.hidePasswdInParams(self.params, "device_config")
        logged["session_ref"] = "******"
        util.SMlog("%s %s" % (self.cmd, logged))
        handler = _HANDLERS.get(self.cmd)
        if handler is None:
            raise xs_errors.XenError("BadRequest", opterr="unknown command %s" % self.cmd)
        return handler(self, sr, target)

    # One method for each call that is more than a method of the SR or the VDI.

    def _tapped(self, target):
        return blktap2.VDI(self.vdi_uuid, target, self.driver_info)

    def _caching(self):
        return {
            key: self.params.get(key)
            for key in (
                blktap2.VDI.CONF_KEY_ALLOW_CACHING,
                blktap2.VDI.CONF_KEY_MODE_ON_BOOT,
                blktap2.VDI.CONF_KEY_CACHE_SR,
                blktap2.VDI.CONF_KEY_O_DIRECT,
            )
        }

    def _writable(self):
        return self.params["args"][0] == "true"

    def _vdi_create(self, sr, target):
        (
            size,
            target.label,
            target.description,
            target.metadata_of_pool,
            snapshot,
            target.snapshot_time,
            target.snapshot_of,
            read_only,
        ) = self.params["args"]
        if not (util.isLegalXMLString(target.label) and util.isLegalXMLString(target.description)):
            raise xs_errors.XenError(
                "InvalidArg", opterr="name or description holds characters not legal in XML"
            )
        target.ty = self.params["vdi_type"]
        target.is_a_snapshot = snapshot == "true"
        target.read_only = read_only == "true"
        return target.create(self.sr_uuid, self.vdi_uuid, int(size))

    def _vdi_introduce(self, sr, target):
        uuid = self.params["new_uuid"]
        return sr.vdi(uuid).introduce(self.sr_uuid, uuid)

    def _vdi_attach(self, sr, target):
        return self._tapped(target).attach(
            self.sr_uuid, self.vdi_uuid, self._writable(), caching_params=self._caching()
        )

    def _vdi_detach(self, sr, target):
        return self._tapped(target).detach(self.sr_uuid, self.vdi_uuid)

    def _vdi_activate(self, sr, target):
        return self._tapped(target).activate(
            self.sr_uuid, self.vdi_uuid, self._writable(), self._caching()
        )

    def _vdi_deactivate(self, sr, target):
        return self._tapped(target).deactivate(self.sr_uuid, self.vdi_uuid, self._caching())

    def _vdi_resize(self, sr, target):
        return target.resize(self.sr_uuid, self.vdi_uuid, int(self.params["args"][0]))

    def _vdi_resize_online(self, sr, target):
        return target.resize_online(self.sr_uuid, self.vdi_uuid, int(self.params["args"][0]))

    def _vdi_compose(self, sr, target):
        parent = sr.session.xenapi.VDI.get_uuid(self.params["args"][0])
        return target.compose(self.sr_uuid, parent, self.vdi_uuid)

    def _vdi_enable_cbt(self, sr, target):
        return target.configure_blocktracking(self.sr_uuid, self.vdi_uuid, True)

    def _vdi_disable_cbt(self, sr, target):
        return target.configure_blocktracking(self.sr_uuid, self.vdi_uuid, False)

    def _vdi_epoch_begin(self, sr, target):
        if self.params.get(blktap2.VDI.CONF_KEY_MODE_ON_BOOT) == "reset":
            raise xs_errors.XenError("Unimplemented")

    def _sr_attach(self, sr, target):
        master = sr.dconf.get("SRmaster") == "true"
        resetvdis.reset_sr(sr.session, util.get_this_host(), self.sr_uuid, master)
        if master:
            util.set_dirty(sr.session, self.params["sr_ref"])
        try:
            return sr.attach(self.sr_uuid)
        finally:
            if master:
                sr.after_master_attach(self.sr_uuid)

    def _sr_probe(self, sr, target):
        return xmlrpc.client.dumps((sr.probe(),), "", True)

    def _sr_content_type(self, sr, target):
        return xmlrpc.client.dumps((sr.content_type(self.sr_uuid),), "", True)


def _of_vdi(name):
    return lambda self, sr, target: getattr(target, name)(self.sr_uuid, self.vdi_uuid)


def _of_sr(name):
    return lambda self, sr, target: getattr(sr, name)(self.sr_uuid)


_HANDLERS = {
    "vdi_create": SRCommand._vdi_create,
    "vdi_introduce": SRCommand._vdi_introduce,
    "vdi_delete": _of_vdi("delete"),
    "vdi_update": _of_vdi("update"),
    "vdi_attach": SRCommand._vdi_attach,
    "vdi_detach": SRCommand._vdi_detach,
    "vdi_activate": SRCommand._vdi_activate,
    "vdi_deactivate": SRCommand._vdi_deactivate,
    "vdi_snapshot": _of_vdi("snapshot"),
    "vdi_clone": _of_vdi("clone"),
    "vdi_resize": SRCommand._vdi_resize,
    "vdi_resize_online": SRCommand._vdi_resize_online,
    "vdi_compose": SRCommand._vdi_compose,
    "vdi_generate_config": _of_vdi("generate_config"),
    "vdi_epoch_begin": SRCommand._vdi_epoch_begin,
    "vdi_epoch_end": lambda self, sr, target: None,
    "vdi_enable_cbt": SRCommand._vdi_enable_cbt,
    "vdi_disable_cbt": SRCommand._vdi_disable_cbt,
    "vdi_data_destroy": _of_vdi("data_destroy"),
    "sr_create": lambda self, sr, target: sr.create(self.sr_uuid, int(self.params["args"][0])),
    "sr_delete": _of_sr("delete"),
    "sr_update": _of_sr("update"),
    "sr_probe": SRCommand._sr_probe,
    "sr_attach": SRCommand._sr_attach,
    "sr_detach": _of_sr("detach"),
    "sr_scan": _of_sr("scan"),
    "sr_content_type": SRCommand._sr_content_type,
}


def run(driver, driver_info):
    """The main program of a driver: one call, its answer or fault on stdout, exit status 0 either
    way."""
    cmd = SRCommand(driver_info)
    try:
        cmd.parse()
        cmd.run_statics()
        sr = driver(cmd, cmd.sr_uuid)
        sr.direct = True
        answer = cmd.run(sr)
        print(util.return_nil() if answer is None else answer)
    except xmlrpc.client.ProtocolError:
        print(xs_errors.XenError("APIProtocolError", opterr=traceback.format_exc()).toxml())
    except xs_errors.SRException as error:
        util.logException(driver_info["name"])
        print(error.toxml())
    except Exception as error:  # the interface's catch-all: fault 1200
        util.logException(driver_info["name"])
        print(xmlrpc.client.dumps(xmlrpc.client.Fault(1200, str(error)), "", True))
    sys.exit(0)
