# SPDX-License-Identifier: LGPL-2.1-only
"""QCOW2 images in the place of upstream's VHDs: made by qemu-img, looked at by reading their
header.

Reading the header (docs/interop/qcow2.txt of QEMU) costs no process and takes no image lock, so it
works while a tapdisk has the image open. "Hidden" (upstream: a flag in the VHD's footer) is an
empty file beside the image.
"""

import collections
import json
import os
import struct
import subprocess

from sm.core import util

FILE_EXTN = ".qcow2"
EXTENSIONS = (FILE_EXTN, ".vhd")  # the second in XCP-ng's layout only (cowutil)
HIDDEN_EXTN = ".hidden"
VDI_TYPE = "qcow2"
LOCK_TYPE_SR = "sr"
LOCK_TYPE_GC_ACTIVE = "gc_active"
"""Of an SR's collector, while it runs. It is taken with the SR locked only."""
MAX_CHAIN_SIZE = 30
QEMU_IMG = "qemu-img"
SIZE_UNIT = 2 * 1024 * 1024  # VHD's block: upstream rounds sizes up to it

_HEADER = struct.Struct(">4sIQIIQIIQ")  # ... of version 2 and 3 alike: magic to l1_table_offset
ImageInfo = collections.namedtuple("ImageInfo", "uuid path size_virt size_phys parent hidden")


def _read_header(image):
    raw = image.read(_HEADER.size)
    if len(raw) < _HEADER.size or raw[:4] != b"QFI\xfb":
        raise util.CommandException(22, image.name, "not a qcow2 image")
    return _HEADER.unpack(raw)


def extractUuid(path):
    """The uuid of the VDI whose image is at `path`."""
    return os.path.splitext(os.path.basename(path))[0]


def pathOf(directory, uuid):
    """Where the image of a VDI is in its SR, or would be."""
    paths = [os.path.join(directory, uuid + extension) for extension in EXTENSIONS]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def typeOf(path):
    """The type of an image, as its name has it."""
    return os.path.splitext(path)[1][1:]


def getInfo(path):
    """An image as ImageInfo: sizes in bytes; `parent` is the uuid of the image it is based on, or
    None."""
    with open(path, "rb") as image:
        _, _, backing_offset, backing_size, _, size, _, _, _ = _read_header(image)
        parent = None
        if backing_offset:
            image.seek(backing_offset)
            parent = extractUuid(image.read(backing_size).decode())
    physical = os.stat(path).st_blocks * 512
    return ImageInfo(extractUuid(path), path, size, physical, parent, getHidden(path))


def isEmpty(path):
    """Whether nothing was ever allocated in this image itself (its L1 table is all zero)."""
    with open(path, "rb") as image:
        _, _, _, _, _, _, _, l1_entries, l1_offset = _read_header(image)
        image.seek(l1_offset)
        return not image.read(8 * l1_entries).strip(b"\0")


def getAll(directory):
    """The images of a directory: uuid -> ImageInfo."""
    names = [name for name in os.listdir(directory) if name.endswith(EXTENSIONS)]
    return {extractUuid(name): getInfo(os.path.join(directory, name)) for name in names}


def create(path, size):
    """Make an empty image of `size` bytes."""
    util.pread([QEMU_IMG, "create", "-q", "-f", "qcow2", path, str(size)])


def snapshot(child, parent, size, parent_type=VDI_TYPE):
    """Make an empty image `child` of `size` bytes on top of `parent`, in the same directory.

    Without opening the parent: it may be locked by whoever has it open.
    """
    util.pread([QEMU_IMG, "create", "-q"] + _on(parent, parent_type) + [child, str(size)])


def setParent(path, parent, parent_type=VDI_TYPE):
    """Base the image at `path` on `parent` instead, as it is: no data is moved."""
    util.pread([QEMU_IMG, "rebase"] + _on(parent, parent_type) + [path])


def _on(parent, parent_type):
    """The options of qemu-img for an image on top of `parent`, which it does not open (-u)."""
    return ["-u", "-f", "qcow2", "-F", parent_type, "-b", os.path.basename(parent)]


# Tapdisk locks no image, and upstream's programs for VHDs mind no lock: neither does what follows,
# which is for images that are open.
_UNLOCKED = {"driver": "file", "locking": "off"}


def _unlocked(path, **more):
    return dict({"driver": VDI_TYPE, "file": dict(_UNLOCKED, filename=path)}, **more)


def coalesce(path, parent):
    """Begin to write what is in an image itself into its parent, of which it has to be the only
    child: a subprocess.Popen.

    Both may be open to be read, since nobody above the image sees what of the parent it covers; the
    image stays as it is."""
    command = [
        QEMU_IMG,
        "commit",
        "-q",
        "-d",
        "json:" + json.dumps(_unlocked(path, backing=_unlocked(parent))),
    ]
    util.SMlog(command)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def relink(path, parent):
    """As `setParent`, for an image that a tapdisk may have open: what it reads is the same with
    either parent."""
    util.pread(
        [
            QEMU_IMG,
            "rebase",
            "-u",
            "-F",
            VDI_TYPE,
            "-b",
            os.path.basename(parent),
            "json:" + json.dumps(_unlocked(path)),
        ]
    )


def setSizeVirt(path, size):
    """Make an image larger, to `size` bytes."""
    util.pread([QEMU_IMG, "resize", "-q", "-f", "qcow2", path, str(size)])


def getDepth(path):
    """The number of images in the chain that begins at `path`."""
    return len(chainOf(path))


def chainOf(path):
    """The uuids of the images in the chain that begins at `path`."""
    info = getInfo(path)
    found = [info.uuid]
    while info.parent:
        info = getInfo(pathOf(os.path.dirname(path), info.parent))
        found.append(info.uuid)
    return found


def getHidden(path):
    """Whether the image is hidden: a base that is no VDI of its own."""
    return os.path.exists(path + HIDDEN_EXTN)


def setHidden(path, hidden=True):
    """Hide an image, or show it again."""
    if hidden:
        open(path + HIDDEN_EXTN, "w").close()
    elif getHidden(path):
        os.unlink(path + HIDDEN_EXTN)


def delete(path):
    """Remove an image and its mark; no error if it is gone already."""
    for name in (path, path + HIDDEN_EXTN):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass
