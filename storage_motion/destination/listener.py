# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's front door: TLS, hello, token; then the role that was asked for, each connection
in its own thread."""

import collections
import itertools
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Callable, Mapping, NoReturn, Tuple

from storage_motion.errors import DataPathError, PeerRefused
from storage_motion.wire import channel, stream
from storage_motion.wire.buffered_tls import BufferedTls
from storage_motion.wire.json_lines import JsonLines

if TYPE_CHECKING:
    from storage_motion.destination.received_disk import ReceivedDisk

# connections that have not shown the token yet; with one more the oldest has to go
MAX_STRANGERS = 8

log = logging.getLogger(__name__)


class Listener(object):
    """Listens on one TCP address for the movers of one migration."""

    def __init__(
        self,
        address: str,
        certificate: channel.Certificate,
        token: str,
        disks: Mapping[str, "ReceivedDisk"],
        heard: Callable[[], None],
    ) -> None:
        """Begins at once. `disks`: key -> ReceivedDisk. `heard()` is called whenever a mover shows
        that it lives."""
        self._certificate = certificate
        self._token = token
        self._disks = disks
        self._heard = heard
        self._strangers = _Strangers(MAX_STRANGERS)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.bind((address, 0))
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise DataPathError("cannot listen on %s: %s" % (address, error))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that exist go on."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._socket.accept()
            except ConnectionAbortedError:
                continue  # gone before we came to it
            except OSError:
                return  # closed
            try:
                stranger = self._strangers.admit(sock, peer)
            except OSError as error:
                log.warning("%s: %s", peer[0], error)  # out of descriptors
                sock.close()
                continue
            threading.Thread(
                target=self._meet, args=(sock, peer, stranger), name="stranger", daemon=True
            ).start()

    def _meet(self, sock: socket.socket, peer: Tuple[Any, ...], stranger: int) -> None:
        try:
            try:
                tls, role, key = channel.accept(sock, self._certificate, self._token)
            finally:
                self._strangers.forget(stranger)
            self._serve(tls, role, key)
        except DataPathError as error:
            log.warning("%s: %s", peer[0], error)

    def _serve(self, tls: BufferedTls, role: str, key: str) -> None:
        """Give `role` of disk `key` to the peer, and serve it. Raises DataPathError, with `tls`
        closed, if it cannot have it."""
        self._heard()
        disk = self._disks.get(key)
        try:
            if disk is None:
                raise PeerRefused("unknown disk")
            disk.take_role(role)
        except PeerRefused as error:
            self._turn_away(tls, error)
        try:
            client = None if role == "control" else disk.connect()
        except DataPathError as error:
            disk.end_role(role, "broken")
            self._turn_away(tls, error)
        log.info("disk %s: %s begins", key, role)
        try:
            channel.welcome(tls, disk.size)
        except DataPathError:
            disk.end_role(role, "broken")
            tls.close()
            raise
        if role == "control":
            disk.control(JsonLines(tls), self._heard)
            tls.close()
        else:
            assert client is not None
            disk.forward(role, tls, client)

    def _turn_away(self, tls: BufferedTls, reason: DataPathError) -> NoReturn:
        try:
            channel.refuse(tls, str(reason))
        finally:
            tls.close()


class _Strangers(object):
    """The connections that have not shown the token yet. A mover shows it in milliseconds; who only
    sits there must not keep movers out."""

    def __init__(self, most: int) -> None:
        """`most`: of them at a time."""
        self._most = most
        self._lock = threading.Lock()
        # number -> (a duplicate of the socket, its peer), oldest first
        self._known: "collections.OrderedDict[int, Tuple[socket.socket, Tuple[Any, ...]]]" = (
            collections.OrderedDict()
        )
        self._numbers = itertools.count()

    def admit(self, sock: socket.socket, peer: Tuple[Any, ...]) -> int:
        """The number of one more. If they are too many then, the oldest is shut down; whoever
        serves it finds it lost."""
        # TLS takes the socket itself over: a duplicate reaches the connection whoever has it.
        duplicate = sock.dup()
        with self._lock:
            number = next(self._numbers)
            self._known[number] = (duplicate, peer)
            if len(self._known) > self._most:
                oldest, who = self._known.popitem(last=False)[1]
                log.warning("%s: too many connections without a token", who[0])
                stream.interrupt(oldest)
                oldest.close()
        return number

    def forget(self, number: int) -> None:
        """It has shown the token, or is gone."""
        with self._lock:
            duplicate, _ = self._known.pop(number, (None, None))
        if duplicate is not None:
            duplicate.close()
