# SPDX-License-Identifier: LGPL-2.1-only
"""Images on logical volumes: what an SR of type `lvm` and its like keeps, looked at through the
volumes' tags.

A QCOW2 image needs room for its metadata, too; `qemu-img measure` knows how much.
"""

import collections
import json
import os

from sm import lvutil, qcow2util
from sm.core import util

try:
    from sm import cowutil
except ImportError:  # not XCP-ng's
    cowutil = None

RAW = "raw"
PREFIXES = {qcow2util.VDI_TYPE: "QCOW2-", RAW: "LV-"}
if cowutil:
    PREFIXES["vhd"] = "VHD-"

# Tags of a volume. PARENT and FORKED_FROM are uuids, VIRTUAL_SIZE is in bytes.
PARENT = "parent"
VIRTUAL_SIZE = "virtual-size"
HIDDEN = "hidden"
FORKED_FROM = "forked-from"  # while a snapshot is under way: the leaf that this base was

EMPTY = 1 << 20  # bytes: more than the metadata of an empty image

Image = collections.namedtuple(
    "Image", "uuid path kind size virtual_size parent hidden forked_from active"
)
"""`size`: of the volume, `virtual_size`: of the disk, in bytes; `parent`, `forked_from`: a uuid or
None."""


def name(kind, uuid):
    """The name of the volume of an image."""
    return PREFIXES[kind] + uuid


def getAll(vg):
    """The images of a volume group: uuid -> Image."""
    found = {}
    for volume in lvutil.listLVs(vg).values():
        for kind, prefix in PREFIXES.items():
            if volume.name.startswith(prefix):
                uuid = volume.name[len(prefix) :]
                found[uuid] = Image(
                    uuid,
                    volume.path,
                    kind,
                    volume.size,
                    int(volume.tags.get(VIRTUAL_SIZE, volume.size)),
                    volume.tags.get(PARENT),
                    HIDDEN in volume.tags,
                    volume.tags.get(FORKED_FROM),
                    volume.active,
                )
    return found


def chain(images, uuid):
    """The images of a chain, leaf first. Raises CommandException (ENOENT) if one is missing."""
    found = []
    while uuid:
        if uuid not in images:
            raise util.CommandException(2, "chain", "image %s is missing" % uuid)
        found.append(images[uuid])
        uuid = images[uuid].parent
    return found


def volume_size(kind, size, thin):
    """The bytes that the volume of a disk of `size` bytes needs: all that it may ever, or (thin) as
    long as it is empty."""
    if kind == RAW:
        return util.roundup(lvutil.LVM_SIZE_INCREMENT, size)
    if thin and cowutil and kind == qcow2util.VDI_TYPE:
        metadata = _measured(size) - size
        return util.roundup(lvutil.LVM_SIZE_INCREMENT, max(EMPTY, metadata))
    if thin:
        return util.roundup(lvutil.LVM_SIZE_INCREMENT, EMPTY)
    return util.roundup(lvutil.LVM_SIZE_INCREMENT, _measured(size))


def _measured(size):
    said = util.pread(
        [qcow2util.QEMU_IMG, "measure", "--output=json", "-O", "qcow2", "--size", str(size)]
    )
    return json.loads(said)["fully-allocated"]


def is_deflated(kind):
    """Whether images of this type are shrunk to what is in them. XCP-ng's of QCOW2 never are: what
    they take is the size of the volume (qcow2util.py, getSizePhys, setSizePhys)."""
    return kind != RAW and not (cowutil and kind == qcow2util.VDI_TYPE)


def used_size(path):
    """The bytes that the volume of a QCOW2 image needs for what is in it now. It must be active,
    and nobody write to it."""
    checked = json.loads(
        util.pread([qcow2util.QEMU_IMG, "check", "-U", "--output=json", "-f", "qcow2", path])
    )
    return util.roundup(lvutil.LVM_SIZE_INCREMENT, max(EMPTY, checked["image-end-offset"]))


def create(path, kind, size, volume):
    """Make an empty image of `size` bytes on a new volume of `volume` bytes. Its volume is active
    then."""
    lvutil.create(path, volume, {VIRTUAL_SIZE: str(size)})
    try:
        if kind == RAW:
            # a new disk reads as zeros, whoever had the space before
            util.pread(["blkdiscard", "-z", path])
        else:
            qcow2util.create(path, size)
    except util.CommandException:
        lvutil.deactivate(path)
        lvutil.remove(path)
        raise


def create_on(path, parent, parent_kind, size, volume):
    """Make an empty image on a new volume, on top of the one at `parent`, which need not be active.

    Until it is whole it is hidden: garbage, if we are killed.
    """
    lvutil.create(path, volume, {VIRTUAL_SIZE: str(size), HIDDEN: ""})
    qcow2util.snapshot(path, parent, size, _inside(parent_kind))
    lvutil.change(
        path,
        add={PARENT: os.path.basename(parent)[len(PREFIXES[parent_kind]) :]},
        remove={HIDDEN: ""},
    )


def _inside(kind):
    """What qemu-img calls what is in an image: a VHD of the lab has QCOW2 inside (cowutil)."""
    return RAW if kind == RAW else qcow2util.VDI_TYPE


def set_parent(image, parent):
    """Base an image on another one, as it is."""
    with _active(image):
        qcow2util.setParent(image.path, parent.path, _inside(parent.kind))
    lvutil.change(
        image.path,
        add={PARENT: parent.uuid},
        remove={PARENT: image.parent} if image.parent else None,
    )


def set_virtual_size(image, size):
    """Make a disk larger. Its volume is large enough."""
    if image.kind != RAW:
        with _active(image):
            qcow2util.setSizeVirt(image.path, size)
    lvutil.change(
        image.path, add={VIRTUAL_SIZE: str(size)}, remove={VIRTUAL_SIZE: str(image.virtual_size)}
    )


def collect_garbage(vg, needed):
    """Remove hidden bases that nothing is based on any more. `needed(image)`: whether it stays all
    the same.

    Returns the images that are left. Merging a base into its only child belongs here, too, and does
    not exist (as in FileSR).
    """
    images = getAll(vg)
    while True:
        parents = {image.parent for image in images.values()}
        garbage = [
            image
            for image in images.values()
            if image.hidden and image.uuid not in parents and not needed(image)
        ]
        if not garbage:
            return images
        for image in garbage:
            util.SMlog("Removing unreferenced base %s" % image.uuid)
            lvutil.remove(image.path)
            del images[image.uuid]


class _active(object):
    """The volume of an image is active meanwhile."""

    def __init__(self, image):
        self._image = image

    def __enter__(self):
        if not self._image.active:
            lvutil.activate(self._image.path)

    def __exit__(self, *_):
        if not self._image.active:
            lvutil.deactivate(self._image.path)
