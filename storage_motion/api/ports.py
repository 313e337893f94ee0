# SPDX-License-Identifier: LGPL-2.1-only
"""For `sxm doctor`: whether the hosts reach one another as a migration needs it.

One host listens for a moment on a port as a receiver gets one, with dom0's firewall open for it;
others try to connect. Nothing of a migration is touched, and no data is sent but a word that
`sxm` has made up. Who may call the plugin is root on these hosts already (xen-api:
datamodel_host.ml, call_plugin: pool administrators only); all the same only addresses, no names,
and only the ports of the product are tried.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Tuple

from storage_motion import waiting
from storage_motion.dom0 import firewall, root
from storage_motion.errors import BadArguments
from storage_motion.journal import journal
from storage_motion.migration import receiving_calls

if TYPE_CHECKING:
    import XenAPI

LISTENS, REACHES = "doctor-listen", "doctor-reach"
RANGE = "/proc/sys/net/ipv4/ip_local_port_range"  # from which the kernel gives a receiver its port
UNUSUAL = (1024, 65535)  # the least that is taken for one, where that cannot be read
XAPI = 443  # also xenopsd's, for the memory of a VM
NOTE = "doctor-port"  # in /var/lib/sxm: the ports that the firewall was opened for, while it is
NOTED = 1024  # bytes that it has
LISTEN = 25.0  # seconds
TRY = 15.0  # seconds for a listener to be there
CONNECT = 4.0  # seconds for one connection
PAUSE = 0.25  # seconds between two of them
MOST = 256  # of those that are tried in one call
WORD = re.compile("^[0-9a-f]{32}$")
ANSWER = b"sxm\n"
OPEN, REFUSED, SILENT, UNREACHABLE, OTHER = "open", "refused", "silent", "unreachable", "other"


def of_receivers() -> Tuple[int, int]:
    """The first and the last port that a receiver of this host may get."""
    try:
        with open(RANGE) as source:
            first, last = source.read().split()
            return int(first), int(last)
    except (OSError, ValueError):
        return UNUSUAL


def unused() -> int:
    """One that the kernel gives just now, on all addresses: it is nobody's for the moment, whereas
    one by chance may be that of a connection, be it one that has ended."""
    with contextlib.closing(_bound(False, 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def listen(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Listen on `port` until `expect` callers have said `word`, at most 25 s. {"listened": False
    if the port is another's, or somebody else listens so just now; "heard": callers}

    Raises BadArguments, FirewallFailed."""
    first, last = of_receivers()
    port = _number(given, "port", first, last)
    expect = _number(given, "expect", 1, 10000)
    word = _word(given)
    with _alone() as note:
        if note is None:
            return {"listened": False, "heard": 0}
        kept = _close_forgotten(note)
        with contextlib.ExitStack() as own:
            try:
                taken = _take(own, port)
            except OSError:
                return {"listened": False, "heard": 0}
            listener = taken[_is_ipv6(receiving_calls.own_address(session))]
            listener.listen(16)
            _write(note, kept + [port])  # before: what is open can be found after a crash
            try:
                firewall.open_port(port)
                heard = _hear(listener, word, expect)
            finally:
                firewall.close_port(port)  # while nobody else can have it
                _write(note, kept)
    return {"listened": True, "heard": heard}


def reach(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Try each of `targets`, a JSON list of [address, port], all at once, for 15 s and one try.
    {"found": [in their order: "open", or "refused", "silent", "unreachable", "other" (somebody
    else listens there)]}. At port 443 a connection is all that is asked for.

    Raises BadArguments."""
    word, targets = _word(given), _targets(given.get("targets", ""))
    end = time.monotonic() + TRY
    return {"found": waiting.at_once(lambda one: _reach(one, word, end), targets, MOST)}


@contextlib.contextmanager
def _alone() -> Iterator[Any]:
    """The descriptor of the note, locked; None if somebody else has it. The lock ends with its
    process."""
    root.private_directory(journal.DIRECTORY)
    path = root.path("%s/%s" % (journal.DIRECTORY, NOTE))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _write(note: int, ports: List[int]) -> None:
    # in one write, blanks and all: who is killed has noted what was open before, or what is now
    os.pwrite(note, " ".join(map(str, ports)).encode().ljust(NOTED), 0)
    os.fsync(note)


def _close_forgotten(note: int) -> List[int]:
    """Close the ports of those that were killed. Those that are others' by now stay noted, for the
    next time: it may be no receiver, which closes its own."""
    text = os.pread(note, NOTED, 0).decode("ascii", "replace")
    kept = []
    for port in [int(one) for one in text.split() if one.isdigit()]:
        with contextlib.ExitStack() as own:
            try:
                _take(own, port)
            except (OSError, OverflowError):
                kept.append(port)
                continue
            firewall.close_port(port)
    _write(note, kept)
    return kept


def _take(own: contextlib.ExitStack, port: int) -> Dict[bool, socket.socket]:
    """Have the port in `own`, of IPv6 (True) and of IPv4, so that no receiver is given it
    meanwhile: a receiver has it of one of them, and the firewall has one rule for both. Raises
    OSError, where either is somebody's."""
    return {
        ipv6: own.enter_context(contextlib.closing(_bound(ipv6, port)))
        for ipv6 in (False, True)
        if _has(ipv6)
    }


def _has(ipv6: bool) -> bool:
    """Whether this host has that family at all."""
    try:
        _socket(ipv6).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True


def _bound(ipv6: bool, port: int) -> socket.socket:
    """On all addresses of one family. Raises OSError."""
    found = _socket(ipv6)
    try:
        if ipv6:  # else it has IPv4's, too, as the kernel is set
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(("::" if ipv6 else "0.0.0.0", port))
    except OSError:
        found.close()
        raise
    return found


def _socket(ipv6: bool) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM)


def _hear(listener: socket.socket, word: bytes, expect: int) -> int:
    heard, end = 0, time.monotonic() + LISTEN
    while heard < expect and time.monotonic() < end:
        listener.settimeout(max(0.1, end - time.monotonic()))
        try:
            peer, _ = listener.accept()
        except OSError:
            continue  # nobody any more, or gone before we came to it
        with contextlib.closing(peer):
            heard += _greeted(peer, word, min(end, time.monotonic() + CONNECT))
    return heard


def _greeted(peer: socket.socket, word: bytes, end: float) -> bool:
    try:
        if _read(peer, len(word), end) != word:
            return False
        peer.sendall(ANSWER)
    except OSError:
        return False
    return True


def _read(sock: socket.socket, count: int, end: float) -> bytes:
    """So many bytes, or fewer at the stream's end. Raises socket.timeout when that time of the
    clock that does not go back has come: also where a byte comes now and then."""
    found = b""
    while len(found) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise socket.timeout()
        sock.settimeout(left)
        more = sock.recv(count - len(found))
        if not more:
            break
        found += more
    return found


def _reach(target: Tuple[str, int], word: bytes, end: float) -> str:
    """A listener may not be there yet: what is refused is tried again, until that time. So is what
    is rejected, as by a firewall that is just being opened."""
    while True:
        found = _connect(target, word)
        again = found in (REFUSED, UNREACHABLE) and target[1] != XAPI
        if not again or time.monotonic() > end:
            return found
        time.sleep(PAUSE)


def _connect(target: Tuple[str, int], word: bytes) -> str:
    try:
        with contextlib.closing(socket.create_connection(target, CONNECT)) as sock:
            if target[1] == XAPI:
                return OPEN
            sock.sendall(word)
            answer = _read(sock, len(ANSWER), time.monotonic() + CONNECT)
            return OPEN if answer == ANSWER else OTHER
    except socket.timeout:
        return SILENT
    except ConnectionRefusedError:
        return REFUSED
    except ConnectionError:
        return OTHER
    except OSError:
        return UNREACHABLE


def _number(given: Dict[str, str], name: str, least: int, most: int) -> int:
    text = given[name]
    if not text.isdigit() or not least <= int(text[:9]) <= most:
        raise BadArguments("%s: %r is not a number from %d to %d" % (name, text[:64], least, most))
    return int(text)


def _word(given: Dict[str, str]) -> bytes:
    if not WORD.match(given["word"]):
        raise BadArguments("word: is not 32 hexadecimal digits")
    return given["word"].encode()


def _targets(text: str) -> List[Tuple[str, int]]:
    try:
        found = json.loads(text)
        targets = [(str(address), int(port)) for address, port in found]
    except (ValueError, TypeError):
        raise BadArguments("targets: is not a JSON list of [address, port]")
    if len(targets) > MOST:
        raise BadArguments("targets: are more than %d" % MOST)
    wrong = [
        "targets: %s port %d is none that a migration uses" % (address[:64], port)
        for address, port in targets
        if not (_is_address(address) and (port == XAPI or UNUSUAL[0] <= port <= UNUSUAL[1]))
    ]
    if wrong:
        raise BadArguments(*wrong)
    return targets


def _is_address(text: str) -> bool:
    return _is_ipv6(text) or _parses(socket.AF_INET, text)


def _is_ipv6(text: str) -> bool:
    return _parses(socket.AF_INET6, text)


def _parses(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True
