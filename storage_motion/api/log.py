# SPDX-License-Identifier: LGPL-2.1-only
"""The function `log`: what this host's log has of one migration."""

import contextlib
import glob
import gzip
import io
import os
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO, Deque, Dict, Iterator, List, Tuple

from storage_motion import log_lines
from storage_motion.dom0 import inventory, launch, root
from storage_motion.journal import journal

if TYPE_CHECKING:
    import XenAPI

FILES = 3  # the log, and at most so many that logrotate has put away: the newest
LINES = 2000  # the last ones
LENGTH = 2000  # characters of one, with those of a traceback that follow it


def of(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """{"host", "lines", "cut"}: the lines on this host that name the migration, the oldest first;
    `cut`: there were more before them."""
    migration = journal.check_id(given.get("migration", ""))
    found: Deque[Dict[str, str]] = deque(maxlen=LINES)
    count = 0
    for line in _lines(migration):
        found.append(line)
        count += 1
    return {"host": inventory.host_uuid(), "lines": list(found), "cut": count > len(found)}


def _lines(migration: str) -> Iterator[Dict[str, str]]:
    of_it: Dict[str, str] = {}
    for text in _texts():
        line = log_lines.read(text)
        if line is None and of_it:
            of_it["text"] = (of_it["text"] + "\n" + text)[:LENGTH]
            continue
        if of_it:
            yield of_it
        is_of_it = line is not None and migration in line.text
        of_it = dict(line._asdict(), text=line.text[:LENGTH]) if line and is_of_it else {}
    if of_it:
        yield of_it


def _texts() -> Iterator[str]:
    for path, stream in _files():
        with contextlib.closing(stream):
            source: Any = gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream
            try:
                for text in io.TextIOWrapper(source, encoding="utf-8", errors="replace"):
                    yield text.rstrip("\n")
            except EOFError:
                pass  # logrotate is just packing it


def _files() -> List[Tuple[str, BinaryIO]]:
    """[(path, file)] of those that are there, the oldest first. logrotate may rename and remove
    them meanwhile: what is open stays what it is."""
    found: Dict[Tuple[int, int], Tuple[float, str, BinaryIO]] = {}
    for path in sorted(glob.glob(root.path(launch.LOG) + "*")):
        try:
            stream: BinaryIO = open(path, "rb")
        except FileNotFoundError:
            continue
        known = os.fstat(stream.fileno())
        if (known.st_dev, known.st_ino) in found:
            stream.close()
        else:
            found[known.st_dev, known.st_ino] = known.st_mtime, path, stream
    by_age = sorted(found.values(), key=lambda one: one[0])
    for _, _, stream in by_age[:-FILES]:
        stream.close()
    return [(path, stream) for _, path, stream in by_age[-FILES:]]
