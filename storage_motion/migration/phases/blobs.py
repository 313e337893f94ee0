# SPDX-License-Identifier: LGPL-2.1-only
"""The blobs of a VM that changes its pool come along, at the end, as xapi has them do
(xapi_blob.ml, migrate_push; it looks at nothing, and sends what its own host happens to have).

One has come along when its record is on disk there, and what is in it has been read there again,
and is the same. What has not stays as a file of the source host (journal/kept_files.py), since with
the VM its blobs are deleted at the source. Nothing else depends on them: what goes wrong is warned
of. But while the source does not say which there are, none of it may be deleted.
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

# Fields of the journal: {UUID: bytes} of those that have come along; the UUIDs of those that have
# not and are kept, which are not tried again.
MOVED, KEPT = "blobs_moved", "blobs_kept"

log = logging.getLogger("sxm")


def move(m: "Migration") -> None:
    """Move those that have not yet. Raises where the source does not say which there are."""
    if not m.plan.cross_pool:
        return
    vm = Records(m.source).ref("VM", m.plan.vm)
    found = _records(m.source, blobs.of_vm(m.source, vm)) if vm else {}
    here = {name: blob for name, blob in found.items() if blob["uuid"] not in m.entry.get(KEPT, [])}
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

    unproven: List[str] = []
    with no_more_than_warned_of(m, unproven.append):
        durable.keep((m.destination,), make, lacking, "the blobs of VM %s" % m.plan.vm)
    for why in unproven:  # of any of them it is not known what the destination has on disk
        for name in set(here) - set(failed):
            failed[name] = "it is not proven there: %s" % why
    # the small ones first: there may not be room for all
    for name in sorted(failed, key=lambda name: (int(here[name]["size"]), name)):
        _keep(m, name, here[name], failed[name])


def _is_there(m: "Migration", name: str, blob: Dict[str, Any]) -> bool:
    """Whether it has come along, and the destination has not forgotten it since, nor, by an older
    database, how long it is. What somebody has put into it there stays."""
    moved = m.entry.get(MOVED, {})
    if blob["uuid"] not in moved:
        return False
    ref = blobs.of_vm(m.destination, remap.destination_vm(m)).get(name)
    if ref is None:
        return False
    return not moved[blob["uuid"]] or int(m.destination.xenapi.blob.get_size(ref)) > 0


def _trouble(m: "Migration", name: str, blob: Dict[str, Any]) -> str:
    """Move one. Returns why it has not come along, "" if it has."""
    told: List[str] = []
    with no_more_than_warned_of(m, told.append):
        unanswered.twice((m.source, m.destination), lambda: _move(m, name, blob))
    return "".join(told)


def _move(m: "Migration", name: str, blob: Dict[str, Any]) -> None:
    ref = blobs.make(m.destination, remap.destination_vm(m), name, blob)
    host = blobs.find(m.source, blob["ref"], int(blob["size"]))
    sent = 0
    if host is not None:
        sent = _send(m, host, blob, ref)
    elif int(blob["size"]):
        raise Unreachable("blob %s" % blob["uuid"], "no host of the pool has it")
    m.note(None, **{MOVED: dict(m.entry.get(MOVED, {}), **{blob["uuid"]: sent})})


def _send(m: "Migration", host: str, blob: Dict[str, Any], ref: str) -> int:
    """Returns how many bytes it has."""
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
    return sent.size


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


def _keep(m: "Migration", name: str, blob: Dict[str, Any], why: str) -> None:
    """Keep what there is of one that has not come along, and tell the user; `why` it has not."""
    more: List[str] = []
    fields: Dict[str, Any] = {}

    def keep() -> Optional[str]:
        found = blobs.look(m.source, blob["ref"], int(blob["size"]))
        if found.host is None:
            if found.trouble:
                raise found.trouble
            return None
        with blobs.of_host(m.source, found.host, blob["ref"]) as content:
            if content is None:
                return None
            path = kept_files.keep(m.id, blob["uuid"], content.pieces)
        if not found.exact:
            more.append("; that is not of the %s bytes that xapi says" % blob["size"])
        if found.trouble:
            more.append(", and there may be a newer one: %s" % found.trouble)
        fields[KEPT] = sorted(set(m.entry.get(KEPT, [])) | {blob["uuid"]})
        return path

    told = kept(m, keep) + "".join(more)
    m.warn(
        "blob %s of VM %s could not be moved to its new pool: %s; %s"
        % (name, m.plan.vm_name, why, told),
        **fields,
    )
