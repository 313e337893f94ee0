"""An image that no VDI names, as a `vdi_create` leaves it that is killed before it tells xapi: its removal, where it is known for sure.

The uuid of an image is the driver's own choice, and xapi hands none over (sm, SRCommand.parse; xapi, storage_smapiv1.ml), so ours cannot
be told by it. SM's next scan would make a VDI without a name of it.
"""
import os

from storage_motion.dom0 import images, tapctl
from storage_motion.dom0.disks.disk import locked
from storage_motion.errors import ImageLeft

ROUNDING = 4 << 20         # bytes: SM rounds a size up, to blocks of 2 MiB for VHD (vhdutil.py), to extents of 4 MiB on LVM


def remove(sr, size, since):
    """Remove the one image that `size` bytes were asked for, which SM may have rounded up, made at `since` (seconds since the epoch) or later, that no VDI of the SR object `sr` names.
    Its uuid, or None if there is none.

    Nobody can miss it. With the SR's lock held no `vdi_create` is under way, so whoever made it is dead, and has told nobody its uuid; no
    other image is based on it; nothing has it open here; and there is no data in it. Raises ImageLeft where that cannot be known:
    on LVM an image is there only while it is active, another host may be the SR's master, and of several one may be somebody else's.
    """
    if sr.dconf.get("SRmaster") != "true":
        raise ImageLeft(sr.uuid, "another host is its master")
    if not os.path.isdir(sr.path) or not hasattr(sr, "_loadvdis") or sr.path.startswith("/dev/"):
        raise ImageLeft(sr.uuid, "its images are not files")
    with locked(sr.lock):
        found = [vdi for vdi in _unnamed(sr) if size <= int(vdi.size) < size + ROUNDING and os.stat(vdi.path).st_mtime >= since]
        found = [vdi for vdi in found if not tapctl.find(vdi.path) and images.is_blank(vdi.vdi_type, vdi.path)]
        if len(found) > 1:
            raise ImageLeft(sr.uuid, "which of %s it is is not known" % ", ".join(sorted(vdi.uuid for vdi in found)))
        for vdi in found:
            os.unlink(vdi.path)
    return found[0].uuid if found else None


def _unnamed(sr):
    """The VDI objects of images that are nobody's parent or child, and that xapi knows nothing of."""
    sr._loadvdis()
    api = sr.session.xenapi
    named = {api.VDI.get_uuid(ref) for ref in api.SR.get_VDIs(sr.sr_ref)}
    parents = {vdi.parent for vdi in sr.vdis.values() if vdi.parent}
    return [vdi for uuid, vdi in sr.vdis.items() if uuid not in named and uuid not in parents and not vdi.parent and not vdi.hidden]
