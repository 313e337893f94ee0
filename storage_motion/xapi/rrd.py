# SPDX-License-Identifier: LGPL-2.1-only
"""The statistics of a VM: its RRD (round-robin database).

While a VM runs its RRD is in the memory of its host's xcp-rrdd, by the VM's UUID, and goes on to be
filled. When it halts, and once a day, the RRD is *archived*: a file of the master's. xenopsd does
not move it; xapi does, at the end of a migration, and looks at nothing then (rrdd_server.ml,
migrate_rrd: out of the memory first, then sent). An RRD is an XML (rrd.ml, from_xml), from some
100 KiB to some MiB.
"""

import math
import re
import xmlrpc.client
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Tuple

from storage_motion.dom0 import root
from storage_motion.errors import Unreachable
from storage_motion.xapi import transport, unanswered
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    import XenAPI

# rrd_interface.ml, default_path: XML-RPC at "/", and the RRDs of this host's memory over HTTP
SOCKET = "/var/lib/xcp/xcp-rrdd"
GET, PUT = "/vm_rrd", "/rrd"
# rows that may have come besides, less one: hosts' clocks differ
CLOCKS = 3
MOST = 1000000  # data sources times archives: rrdd has some hundred of the ones, and few others


def in_memory(vm: str) -> Optional[bytes]:
    """The RRD (XML) that this host's rrdd has of a VM (its UUID). Raises Unreachable."""
    connection = transport.UnixConnection(root.path(SOCKET), unanswered.TIMEOUT)
    return unanswered.get(connection, "%s?uuid=%s" % (GET, vm), moved=False)


def of_own_pool(session: "XenAPI.Session", vm: str) -> Optional[bytes]:
    """The RRD (XML) that this pool has of a VM (its UUID), archived or not, while it has the VM.
    Raises Unreachable."""
    path = unanswered.query(session, GET, [("uuid", vm)])
    return unanswered.get(transport.local_connection(unanswered.TIMEOUT), path)


def at(url: str, session: "XenAPI.Session", vm: str) -> Optional[bytes]:
    """The RRD (XML) that the very host whose xapi answers at `url` has of a VM (its UUID): in its
    memory, or, as its pool's master, of a VM that does not run, archived. Raises Unreachable."""
    path = unanswered.query(session, GET, [("uuid", vm)])
    return unanswered.get(transport.connection(url, unanswered.TIMEOUT), path, moved=False)


def send(
    url: str, session: "XenAPI.Session", vm: str, document: bytes, archive: bool, dated: bool = True
) -> None:
    """Have the host whose xapi answers at `url` take `document` for the RRD of a VM (its UUID): go
    on to fill it, or, `archive`, as the pool's master, keep it. `document`: as one answers it.
    `dated`: as those of today read it. Raises Unreachable."""
    fields = [("archive", "true")] if archive else []
    path = unanswered.query(session, PUT, fields + [("uuid", vm)])
    unanswered.put(url, path, as_sent(document) if dated else document, closes=True)


def as_sent(document: bytes) -> bytes:
    """What an rrdd of today reads, of what it answers: it wants to know of each data source when
    that was updated, and leaves that out of its answers (rrd.ml, xml_to_output; from_xml takes it
    for optional, and does not read on without it: docs/checked-by-hand.md)."""
    updated = re.search(rb"<lastupdate>[^<]*</lastupdate>", document)
    if updated is None or b"<last_updated>" in document:
        return document
    told = updated.group(0).replace(b"lastupdate", b"last_updated")
    return document.replace(b"</unknown_sec>", b"</unknown_sec>" + told)


def archive(session: "XenAPI.Session", host: str, vm: str) -> None:
    """Have this host's rrdd (`host`: its ref) give the RRD of a VM (its UUID) out of its memory to
    the master, as xapi does when a VM halts (xapi_vm_lifecycle.ml). Raises Unreachable."""
    arguments = {"vm_uuid": vm}
    master = Records(session).pool()["master"]
    if master != host:
        arguments["remote_address"] = session.xenapi.host.get_address(master)
    path = root.path(SOCKET)
    try:
        xmlrpc.client.ServerProxy(
            "http://localhost/", transport.socket_transport(path, unanswered.TIMEOUT)
        ).archive_rrd(arguments)
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(SOCKET, "archive_rrd: %s" % reason(error))


class _Archive(NamedTuple):
    """Values of a data source in one interval, the oldest first."""

    seconds: int
    values: List[float]


def holds(there: bytes, ours: bytes) -> bool:
    """Whether the RRD `there` (XML) has all that is known in `ours`, but for what it has grown out
    of since: each of its archives has a fixed number of rows. False of what is no RRD."""
    try:
        then, now = _read(ours), _read(there)
        later = (_number(b"lastupdate", ours), _number(b"lastupdate", there))
        return all(key in now and _goes_on(known, now[key], later) for key, known in then.items())
    except (ValueError, IndexError, ArithmeticError):  # steps of 0 s, or of infinitely many
        return False


def _goes_on(then: _Archive, now: _Archive, updated: Tuple[int, int]) -> bool:
    if (then.seconds, len(then.values)) != (now.seconds, len(now.values)):
        return False
    rows = max(0, updated[1] // now.seconds - updated[0] // now.seconds)
    return any(
        all(_is_kept(old, new) for old, new in zip(then.values[rows + more :], now.values))
        for more in range(CLOCKS)
    )


def _is_kept(old: float, new: float) -> bool:
    # rrdd takes what is below a data source's least value for unknown (rrd.ml, CA-408126)
    return math.isnan(old) or old == new or (old < 0 and math.isnan(new))


# What rrdd writes is flat enough to be looked at without a parser, which what another pool says
# might blow up. Nothing here may take longer than in proportion to its length.
def _read(document: bytes) -> Dict[Tuple[bytes, bytes, bytes], _Archive]:
    """{(data source, consolidation function, steps): _Archive}. Raises ValueError, IndexError,
    ArithmeticError."""
    head, *archives = document.split(b"<rra>")
    names = _texts(b"name", head)
    if len(names) * len(archives) > MOST:
        raise ValueError("not an RRD")
    found = {}
    for text in archives:
        cf, steps = _texts(b"cf", text)[0], _texts(b"pdp_per_row", text)[0]
        rows = [[float(value) for value in _texts(b"v", row)] for row in text.split(b"<row>")[1:]]
        for column, name in enumerate(names):
            values = [row[column] for row in rows]
            found[name, cf, steps] = _Archive(_whole(steps) * _number(b"step", head), values)
    if not names or not found:
        raise ValueError("not an RRD")
    return found


def _texts(tag: bytes, text: bytes) -> List[bytes]:
    # blanks are no part of the pattern: it would try each way to share them out
    return [found.strip() for found in re.findall(b"<%s>([^<]*)</%s>" % (tag, tag), text)]


def _number(tag: bytes, text: bytes) -> int:
    return _whole(_texts(tag, text)[0])


def _whole(text: bytes) -> int:
    # by way of float: int() of very many digits takes the square of their number
    return int(float(text))
