"""Where the data is in a disk image and the chain below it, without opening it for writing.

Image types are named as tapdisk names them (`type:path` of tap-ctl). A type that is missing from the table
is an error that says so, never a guess. qcow2 is read by qemu-img; VHD and raw disks here, since a host without
qcow2 need not have it.
"""
import contextlib
import json
import os
import subprocess

from storage_motion.dom0 import merging, vhd
from storage_motion.errors import ImagesUnrelated, ImageToolFailed, UnknownImageType

QEMU_IMG = "qemu-img"
MAP_TIMEOUT = 600.0  # seconds: qemu-img reads all metadata of the chain


def extents(image_type, path, base=None):
    """Where there is data: (size in bytes, [(offset, length), ...]).

    Extents are in bytes, multiples of 512, ascending, not overlapping. Without `base`: where the chain that
    begins at `path` holds data; the rest reads as zeros. With `base` (path of another image of the same
    tree): where the two can differ, that is whatever one of them has above the images that they share,
    written zeros included, and all that lies beyond the end of the smaller one. Raises UnknownImageType,
    ImagesUnrelated, ImageToolFailed, BadImage.
    """
    with _reader(image_type)(path, base) as (size, ranges):
        return size, merging.merge(ranges, size)


def is_blank(image_type, path):
    """Whether a disk is known to read as zeros everywhere. An image type that is not known is never blank."""
    if image_type not in _READERS:
        return False
    with _reader(image_type)(path, None) as (_, ranges):
        return next(ranges, None) is None


def _reader(image_type):
    if image_type not in _READERS:
        raise UnknownImageType(image_type, "known: " + ", ".join(sorted(_READERS)))
    return _READERS[image_type]


@contextlib.contextmanager
def _qcow2(path, base):
    chain = _chain(path)
    size = chain[0]["virtual-size"]
    if base is None:
        found = _ranges(_map(path), lambda entry: entry["data"])
    else:
        names = [os.path.realpath(image["filename"]) for image in chain]
        base_names = [os.path.realpath(image["filename"]) for image in _chain(base)]
        shared = next((name for name in names if name in base_names), None)
        if shared is None:
            raise ImagesUnrelated(path, base)
        found = _own(path, names.index(shared)) + _own(base, base_names.index(shared))
    yield size, iter(sorted(found))


def _own(path, images):
    """The ranges that the first `images` images of a chain decide: data, and zeros written over something else.

    What no image has is told with the depth of the last one, so it is never among these.
    """
    if images == 0:
        return []
    return _ranges(_map(path), lambda entry: entry["depth"] < images)


# By tapdisk's image type: function(path, base path or None), a context manager that gives the size in bytes and an
# iterator of ranges (start, end) in bytes, ascending by start.
_READERS = {"qcow2": _qcow2, "aio": vhd.raw_ranges, "vhd": vhd.ranges}


def _chain(path):
    return _qemu_img("info", path, "--backing-chain")


def _map(path):
    return _qemu_img("map", path)


def _qemu_img(command, path, *options):
    """What qemu-img says, parsed. -U: whoever has the image open keeps its lock."""
    line = [QEMU_IMG, command, "-U", "--output=json", "-f", "qcow2"] + list(options) + [path]
    try:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise ImageToolFailed(QEMU_IMG, command, path, error.strerror)
    try:
        out, err = process.communicate(timeout=MAP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ImageToolFailed(QEMU_IMG, command, path, "no answer within %d s" % MAP_TIMEOUT)
    if process.returncode != 0:
        raise ImageToolFailed(QEMU_IMG, command, path, err.decode(errors="replace").strip())
    return json.loads(out.decode())


def _ranges(entries, wanted):
    return [(entry["start"], entry["start"] + entry["length"]) for entry in entries if wanted(entry)]

