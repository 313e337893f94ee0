# SPDX-License-Identifier: LGPL-2.1-only
"""The blobs of a VM: files of anything, by names (xapi_blob.ml).

The database has of each a name, a type and how many bytes it has. What is in it is a file of
whichever host got it by PUT /blob, which no other host is asked for: the members have what the
master has, by rsync once a day, and lose what it has not (xapi_sync.ml). So the master's is the one
that lasts, and the one that is sent to.
"""

import contextlib
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional

import XenAPI

from storage_motion.dom0 import inventory
from storage_motion.errors import Unreachable
from storage_motion.xapi import receiving_host, transport, unanswered
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import reason

PATH = "/blob"
# bytes of one that is moved: xapi's are pictures, notes; if it fails, there is room for it as a
# file of the source host (journal/kept_files.py)
LARGEST = 64 * 1024 * 1024
BOUND = 600.0  # seconds for the contents of one


def of_vm(session: "XenAPI.Session", vm: str) -> Dict[str, str]:
    """{name: ref} of the blobs of a VM (a ref)."""
    found: Dict[str, str] = session.xenapi.VM.get_blobs(vm)
    return found


def make(session: "XenAPI.Session", vm: str, name: str, like: Dict[str, Any]) -> str:
    """Have a VM (a ref) have a blob of that name, of the type of another one (its record), and with
    its texts. Returns its ref. One that is there already stays."""
    api = session.xenapi
    ref = of_vm(session, vm).get(name)
    if ref is None:
        try:
            ref = api.VM.create_new_blob(vm, name, like["mime_type"], like["public"])
        except OSError:
            ref = of_vm(session, vm).get(name)
            if ref is None:  # else it has been made before the connection broke
                raise
    api.blob.set_name_label(ref, like["name_label"])
    api.blob.set_name_description(ref, like["name_description"])
    made: str = ref
    return made


@contextlib.contextmanager
def at(url: str, session: "XenAPI.Session", ref: str) -> Iterator[Optional[unanswered.Content]]:
    """What the very host whose xapi answers at `url` ("": this host) has of a blob (a ref), while
    the context lasts; None: it has no file of it. Raises Unreachable."""
    path = unanswered.query(session, PATH, [("ref", ref)])
    connection = (
        transport.connection(url, unanswered.TIMEOUT)
        if url
        else transport.local_connection(unanswered.TIMEOUT)
    )
    with unanswered.reading(connection, path, BOUND) as found:
        yield found if isinstance(found, unanswered.Content) else None


def send(
    url: str, session: "XenAPI.Session", ref: str, length: int, pieces: Iterable[bytes]
) -> None:
    """Have the master whose xapi answers at `url` have this in a blob (a ref), in place of what it
    has. Raises Unreachable."""
    path = unanswered.query(session, PATH, [("ref", ref)])
    unanswered.put_all(url, path, length, pieces, BOUND)


def hosts(session: "XenAPI.Session") -> List[str]:
    """The refs of all hosts of this host's pool, the master's first: one in maintenance has its
    files, too."""
    records = Records(session)
    master = records.pool()["master"]
    return sorted(records.all("host"), key=lambda ref: (ref != master, ref))


@contextlib.contextmanager
def of_host(
    session: "XenAPI.Session", host: str, ref: str
) -> Iterator[Optional[unanswered.Content]]:
    """The same as `at` of a host of this host's pool (its ref). Raises Unreachable."""
    if session.xenapi.host.get_uuid(host) == inventory.host_uuid():
        with at("", session, ref) as found:
            yield found
        return
    try:
        answer = receiving_host.ask(session, host, _management(session, host))
    except XenAPI.Failure as failure:
        raise Unreachable("host %s" % host, reason(failure))
    try:
        with at(receiving_host.base_url(answer), session, ref) as found:
            yield found
    finally:
        receiving_host.leave(session, answer)


def _management(session: "XenAPI.Session", host: str) -> str:
    """The ref of the network over which a host (its ref) is talked to. Raises Unreachable."""
    for pif in Records(session).all("PIF").values():
        if pif["host"] == host and pif["management"]:
            network: str = pif["network"]
            return network
    raise Unreachable("host %s" % host, "it has no management interface")


class Found(NamedTuple):
    """A host (its ref) that has a file of a blob, None if none has; whether that is as long as xapi
    says, and so the newest (of two of one length it is not known); `trouble`: what one of the
    others, which may have that, does not answer."""

    host: Optional[str]
    exact: bool
    trouble: Optional[Unreachable]


def look(session: "XenAPI.Session", ref: str, size: int) -> Found:
    """Who of this host's pool has a file of a blob (a ref): of `size` bytes, or, if none has, of
    any length."""
    other: Optional[str] = None
    trouble: Optional[Unreachable] = None
    for host in hosts(session):
        try:
            with of_host(session, host, ref) as found:
                if found is not None and found.length == size:
                    return Found(host, True, None)
                if found is not None and other is None:
                    other = host
        except Unreachable as error:
            trouble = error
    return Found(other, False, trouble)


def find(session: "XenAPI.Session", ref: str, size: int) -> Optional[str]:
    """The host of `look`. Raises Unreachable where none has `size` bytes, and one does not answer:
    what the others have may be older."""
    found = look(session, ref, size)
    if found.trouble:
        raise found.trouble
    return found.host
