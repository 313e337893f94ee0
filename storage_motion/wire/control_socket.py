# SPDX-License-Identifier: LGPL-2.1-only
"""The control socket of a process: one JSON object per line over a unix socket, a request and its
answer."""

import logging
import os
import socket
import threading
from typing import Any, Callable, Dict, Mapping

from storage_motion.errors import ConnectionLost, MotionError, ProtocolError
from storage_motion.wire.json_lines import JsonLines

MAX_CLIENTS = 16
IDLE_BOUND = 60.0  # seconds after which a silent client is dropped; it may come again
ANSWER_BOUND = 10.0  # seconds within which a client has to take its answer

Handler = Callable[[Dict[str, Any]], Dict[str, Any]]

log = logging.getLogger(__name__)


def request(path: str, message: Dict[str, Any], timeout: float) -> Dict[str, Any]:
    """Ask the process that listens on the unix socket `path`; its answer, a dict.

    `message`: a dict with "cmd". Raises ConnectionLost if nobody listens or no answer comes within
    `timeout` seconds, ProtocolError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.settimeout(timeout)
            sock.connect(path)
        except OSError as error:
            raise ConnectionLost("%s: %s" % (path, error))
        lines = JsonLines(sock)
        lines.send(message, timeout)
        return lines.receive(timeout)
    finally:
        sock.close()


def listen(path: str, backlog: int) -> socket.socket:
    """A unix socket that listens on `path`, for this user only; what a dead predecessor left there
    is replaced. Whoever finds the path can connect: it gets its name when it listens."""
    made = path + ".new"
    if os.path.exists(made):
        os.unlink(made)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(made)
    os.chmod(made, 0o600)
    sock.listen(backlog)
    os.rename(made, path)
    return sock


class ControlSocket(object):
    """Answers requests, each client in its own thread.

    `handlers`: "cmd" -> function(message) -> answer (a dict). A MotionError that a handler raises
    is answered as {"ok": false, "error": text}.
    """

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._listener = listen(path, MAX_CLIENTS)
        self._lock = threading.Lock()
        self._clients: Dict[threading.Thread, socket.socket] = {}  # thread -> its socket
        self._acceptor = threading.Thread(target=self._accept, name="control", daemon=True)
        self._acceptor.start()

    def close(self, timeout: float = ANSWER_BOUND) -> None:
        """Take no more requests; those being worked on are answered first, `timeout` seconds each
        at most."""
        # The shutdown wakes `accept`, which a mere close would leave waiting for ever.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(timeout)
        self._listener.close()
        if os.path.exists(self._path):
            os.unlink(self._path)
        with self._lock:
            clients = dict(self._clients)
        for sock in clients.values():
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # that client has gone meanwhile
        for thread in clients:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            thread = threading.Thread(
                target=self._serve, args=(sock,), name="control client", daemon=True
            )
            with self._lock:
                if len(self._clients) >= MAX_CLIENTS:
                    sock.close()
                    continue
                self._clients[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        lines = JsonLines(sock)
        try:
            while True:
                message = lines.receive(IDLE_BOUND)
                lines.send(self._answer(message), ANSWER_BOUND)
        except ConnectionLost:
            pass  # how every client ends
        except ProtocolError as error:
            log.warning("a control client was dropped: %s", error)
        finally:
            with self._lock:
                del self._clients[threading.current_thread()]
            sock.close()

    def _answer(self, message: Dict[str, Any]) -> Dict[str, Any]:
        command = message.get("cmd")
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if handler is None:
            return {"ok": False, "error": "unknown command"}
        try:
            return handler(message)
        except MotionError as error:
            log.warning("%s: %s", command, error)
            return {"ok": False, "error": str(error)}
        except Exception as error:
            # A bug of ours must not look like silence to the worker, which would wait for nothing.
            log.exception("%s failed", command)
            return {"ok": False, "error": "internal error: %r" % error}
