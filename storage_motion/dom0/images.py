# SPDX-License-Identifier: LGPL-2.1-only
"""Where the data is in a disk image and the chain below it, without opening it for writing.

Image types are named as tapdisk names them (`type:path` of tap-ctl). A type that is missing from
the table is an error that says so, never a guess. qcow2 is read by qemu-img; VHD and raw disks
here, since a host without qcow2 need not have it.
"""

import contextlib
import os
import subprocess
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple

from storage_motion import strict_json
from storage_motion.dom0 import vhd
from storage_motion.dom0.extents import to_extents
from storage_motion.errors import ImagesUnrelated, ImageToolFailed, UnknownImageType

QEMU_IMG = "qemu-img"
VHD = "vhd"  # tapdisk's name of the type
# whose tapdisk has answered before all of the image's tables are written (docs/facts/xcp-ng-8.3.md)
CACHED = ("qcow2",)
MAP_TIMEOUT = 600.0  # seconds: qemu-img reads all metadata of the chain

_Ranges = Tuple[int, Iterator[Tuple[int, int]]]
_Reader = Callable[[str, Optional[str]], ContextManager[_Ranges]]
_Fields = Tuple[Tuple[str, type], ...]


def extents(
    image_type: str, path: str, base: Optional[str] = None
) -> Tuple[int, List[Tuple[int, int]]]:
    """Where there is data: (size in bytes, [(offset, length), ...]).

    Extents are in bytes, multiples of 512, ascending, not overlapping. Without `base`: where the
    chain that begins at `path` holds data; the rest reads as zeros. With `base` (path of another
    image of the same tree): where the two can differ, that is whatever one of them has above the
    images that they share, written zeros included, and all that lies beyond the end of the smaller
    one. Raises UnknownImageType, ImagesUnrelated, ImageToolFailed, BadImage.
    """
    with _reader(image_type)(path, base) as (size, ranges):
        return size, to_extents(ranges, size)


def is_blank(image_type: str, path: str) -> bool:
    """Whether a disk is known to read as zeros everywhere. An image type that is not known is never
    blank."""
    if image_type not in _READERS:
        return False
    with _reader(image_type)(path, None) as (_, ranges):
        return next(ranges, None) is None


def _reader(image_type: str) -> _Reader:
    if image_type not in _READERS:
        raise UnknownImageType(image_type, "known: " + ", ".join(sorted(_READERS)))
    return _READERS[image_type]


@contextlib.contextmanager
def _qcow2(path: str, base: Optional[str]) -> Iterator[_Ranges]:
    chain = _chain(path)
    size = chain[0][1]
    if base is None:
        found = _ranges(_map(path), lambda entry: entry["data"])
    else:
        names = [name for name, _ in chain]
        base_names = [name for name, _ in _chain(base)]
        shared = next((name for name in names if name in base_names), None)
        if shared is None:
            raise ImagesUnrelated(path, base)
        found = _own(path, names.index(shared)) + _own(base, base_names.index(shared))
    yield size, iter(sorted(found))


def _own(path: str, images: int) -> List[Tuple[int, int]]:
    """The ranges that the first `images` images of a chain decide: data, and zeros written over
    something else.

    What no image has is told with the depth of the last one, so it is never among these.
    """
    if images == 0:
        return []
    return _ranges(_map(path), lambda entry: entry["depth"] < images)


# By tapdisk's image type: function(path, base path or None), a context manager that gives the size
# in bytes and an iterator of ranges (start, end) in bytes, ascending by start.
_READERS: Dict[str, _Reader] = {"qcow2": _qcow2, "aio": vhd.raw_ranges, VHD: vhd.ranges}


# What qemu-img tells of each image and of each range, as far as it is used here: the field, the
# type of its JSON value.
_INFO: _Fields = (("filename", str), ("virtual-size", int))
_MAP: _Fields = (("start", int), ("length", int), ("depth", int), ("data", bool))


def _chain(path: str) -> List[Tuple[str, int]]:
    """(real path, size in bytes) of the image and of those below it."""
    return [
        (os.path.realpath(image["filename"]), image["virtual-size"])
        for image in _qemu_img("info", path, _INFO, "--backing-chain")
    ]


def _map(path: str) -> List[Dict[str, Any]]:
    return _qemu_img("map", path, _MAP)


def _qemu_img(command: str, path: str, fields: _Fields, *options: str) -> List[Dict[str, Any]]:
    """What qemu-img says, as a list of dicts which have `fields`. -U: whoever has the image open
    keeps its lock."""
    said = _run(
        [QEMU_IMG, command, "-U", "--output=json", "-f", "qcow2"] + list(options) + [path], path
    )
    try:
        entries = strict_json.loads(said.decode())
    except ValueError:
        entries = None
    if (
        not isinstance(entries, list)
        or not all(_has(entry, fields) for entry in entries)
        or (fields is _INFO and not entries)
    ):
        raise ImageToolFailed(QEMU_IMG, command, path, "an answer that is not understood")
    return entries


def _has(entry: Any, fields: _Fields) -> bool:
    return (
        isinstance(entry, dict)
        and all(type(entry.get(name)) is kind for name, kind in fields)
        and "\0" not in str(entry.get("filename"))
    )


def _run(line: List[str], path: str) -> bytes:
    try:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise ImageToolFailed(line[0], line[1], path, error.strerror)
    try:
        out, err = process.communicate(timeout=MAP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ImageToolFailed(line[0], line[1], path, "no answer within %d s" % MAP_TIMEOUT)
    if process.returncode != 0:
        raise ImageToolFailed(line[0], line[1], path, err.decode(errors="replace").strip())
    return out


def _ranges(
    entries: List[Dict[str, Any]], wanted: Callable[[Dict[str, Any]], bool]
) -> List[Tuple[int, int]]:
    return [
        (entry["start"], entry["start"] + entry["length"]) for entry in entries if wanted(entry)
    ]
