# SPDX-License-Identifier: LGPL-2.1-only
"""The blobs of a VM that changes its pool come along, at the end, as xapi has them do
(xapi_blob.ml, migrate_push; it looks at nothing, and sends what its own host happens to have).

One has come along when its record is on disk there, and what is in it has been read there again,
and is the same. What has not stays as a file of the source host (journal/kept_files.py), since with
the VM its blobs are deleted at the source. Nothing else depends on them: what goes wrong is warned
of.
"""

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional

from storage_motion.errors import Unreachable
from storage_motion.journal import kept_files
from storage_motion.migration import durable
from storage_motion.migration.accessory import kept, no_more_than_warned_of
from storage_motion.migration.phases import remap
from storage_motion.xapi import blobs, unanswered
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

MOVED = "blobs_moved"  # a field of the journal: the UUIDs of those that have come along

log = logging.getLogger("sxm")


def move(m: "Migration") -> None:
    """Move those that have not yet."""
    if not m.plan.cross_pool:
        return
    with no_more_than_warned_of(m, lambda why: _warn(m, "the blobs", why)):
        vm = Records(m.source).ref("VM", m.plan.vm)
        here = _records(m.source, blobs.of_vm(m.source, vm)) if vm else {}
        if here:
            _move_all(m, here)


def _records(session: Any, refs: Dict[str, str]) -> Dict[str, Dict[str, Any]]:
    """{name: record, with its "ref"} of those that there are."""
    found = {name: (ref, Records(session).of("blob", ref)) for name, ref in refs.items()}
    return {name: dict(record, ref=ref) for name, (ref, record) in found.items() if record}


def _move_all(m: "Migration", here: Dict[str, Dict[str, Any]]) -> None:
    failed: Dict[str, str] = {}

    def make() -> None:
        for name, blob in sorted(here.items()):
            if name not in failed and not _is_there(m, name, blob):
                why = _trouble(m, name, blob)
                failed.update({name: why} if why else {})

    def lacking() -> List[str]:
        return [
            "blob %s" % name
            for name, blob in here.items()
            if name not in failed and not _is_there(m, name, blob)
        ]

    durable.keep((m.destination,), make, lacking, "the blobs of VM %s" % m.plan.vm)
    for name, why in sorted(failed.items()):
        _warn(m, "blob %s" % name, "%s; %s" % (why, kept(m, lambda: _keep(m, here[name]))))


def _is_there(m: "Migration", name: str, blob: Dict[str, Any]) -> bool:
    """Whether it has come along, and the destination has not forgotten it since. What somebody has
    put into it there stays."""
    moved = blob["uuid"] in m.entry.get(MOVED, [])
    return moved and name in blobs.of_vm(m.destination, remap.destination_vm(m))


def _trouble(m: "Migration", name: str, blob: Dict[str, Any]) -> str:
    """Move one. Returns why it has not come along, "" if it has."""
    told: List[str] = []
    with no_more_than_warned_of(m, told.append):
        unanswered.twice((m.source, m.destination), lambda: _move(m, name, blob))
    return "".join(told)


def _move(m: "Migration", name: str, blob: Dict[str, Any]) -> None:
    ref = blobs.make(m.destination, remap.destination_vm(m), name, blob)
    host = blobs.find(m.source, blob["ref"], int(blob["size"]))
    if host is not None:
        _send(m, host, blob, ref)
    elif int(blob["size"]):
        raise Unreachable("blob %s" % blob["uuid"], "no host of the pool has it")
    m.note(None, **{MOVED: sorted(set(m.entry.get(MOVED, [])) | {blob["uuid"]})})


def _send(m: "Migration", host: str, blob: Dict[str, Any], ref: str) -> None:
    sent = _Digest()
    with blobs.of_host(m.source, host, blob["ref"]) as content:
        if content is None or content.length is None:
            raise Unreachable("blob %s" % blob["uuid"], "it is gone")
        if content.length > blobs.LARGEST:
            raise Unreachable(
                "blob %s" % blob["uuid"], "it has more than %d MiB" % (blobs.LARGEST >> 20)
            )
        blobs.send(m.plan.master, m.destination, ref, content.length, sent.of(content.pieces))
    if sent.size != int(blob["size"]):
        log.warning(
            "%s: blob %s has %d bytes, and xapi says %s",
            m.id,
            blob["uuid"],
            sent.size,
            blob["size"],
        )
    arrived = _Digest()
    with blobs.at(m.plan.master, m.destination, ref) as content:
        for _ in arrived.of(content.pieces if content else ()):
            pass
    if (arrived.size, arrived.hexadecimal) != (sent.size, sent.hexadecimal):
        raise Unreachable(
            m.plan.master, "of %d bytes that were sent it has %d" % (sent.size, arrived.size)
        )
    size = int(m.destination.xenapi.blob.get_size(ref))
    if size != sent.size:  # it is set last; by it the next one will look for the file
        raise Unreachable(m.plan.master, "it has %d bytes, and says %d" % (sent.size, size))


class _Digest:
    """Of what goes by."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()

    def of(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces."""
        for piece in pieces:
            self.size += len(piece)
            self._digest.update(piece)
            yield piece

    @property
    def hexadecimal(self) -> str:
        """The digest up to now."""
        return self._digest.hexdigest()


def _keep(m: "Migration", blob: Dict[str, Any]) -> Optional[str]:
    """Keep one as a file; its path, None if no host has anything of it."""
    host = blobs.find(m.source, blob["ref"], int(blob["size"]))
    if host is None:
        return None
    with blobs.of_host(m.source, host, blob["ref"]) as content:
        return content and kept_files.keep(m.id, blob["uuid"], content.pieces)


def _warn(m: "Migration", which: str, why: str) -> None:
    m.warn("%s of VM %s could not be moved to its new pool: %s" % (which, m.plan.vm_name, why))
