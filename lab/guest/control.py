# SPDX-License-Identifier: LGPL-2.1-only
"""The guest's control socket: one JSON line asks, one JSON line answers, followed by `bytes` raw
bytes if it says so.

{"cmd": "restore", "bytes": n} and the memory | {"cmd": "run", "disks": [{"device", "socket",
"rw"}], "excluded": seconds} | {"cmd": "suspend"} -> the memory | {"cmd": "status", "reset": false}
| {"cmd": "records"} -> them | {"cmd": "check"} | {"cmd": "quit"}
"""

import json
import os
import socket
import threading

from lab.guest import record
from storage_motion.wire.control_socket import listen

LINE = 1 << 20
BACKLOG = 8


class GuestError(Exception):
    """The guest answered with an error, or not at all."""


def ask(path, command, timeout, raw=b"", **arguments):
    """Ask the guest at the unix socket `path`, sending `raw` along; (answer, raw bytes). Raises
    GuestError, OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(
            json.dumps(dict(arguments, cmd=command, bytes=len(raw))).encode() + b"\n" + raw
        )
        with connection.makefile("rb") as stream:
            line = stream.readline()
            if not line:
                raise GuestError("%s: the guest ended" % command)
            answer = json.loads(line.decode())
            raw = stream.read(answer.get("bytes", 0))
    if "error" in answer:
        raise GuestError("%s: %s" % (command, answer["error"]))
    if len(raw) != answer.get("bytes", 0):
        raise GuestError("%s: the guest ended within its answer" % command)
    return answer, raw


class ControlSocket:
    """Serves a Machine's commands on a unix socket, each connection in a thread of its own."""

    def __init__(self, path, machine):
        self._path = path
        self._machine = machine
        self.quit = threading.Event()
        self._listener = listen(path, BACKLOG)

    def serve(self):
        """Serve until `quit` is asked."""
        threading.Thread(target=self._accept, daemon=True).start()
        self.quit.wait()
        self._listener.close()
        os.unlink(self._path)

    def _accept(self):
        while not self.quit.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rwb") as stream:
            for line in iter(lambda: stream.readline(LINE), b""):
                try:
                    request = json.loads(line.decode())
                    answer, raw = self._answer(request, stream.read(request.get("bytes", 0)))
                except Exception as error:  # whatever it is, the one who asked shall know
                    answer, raw = {"error": "%s: %s" % (type(error).__name__, error)}, b""
                stream.write(json.dumps(answer).encode() + b"\n" + raw)
                stream.flush()
                if answer.get("quit"):
                    self.quit.set()
                    return

    def _answer(self, request, memory):
        command = request.get("cmd")
        if command == "restore":
            self._machine.restore(record.load(memory))
            return {}, b""
        if command == "run":
            self._machine.run(request["disks"], request.get("excluded", 0.0))
            return {}, b""
        if command == "status":
            return self._machine.status(bool(request.get("reset"))), b""
        if command == "records":
            raw = record.dump(self._machine.records())
            return {"bytes": len(raw)}, raw
        if command == "check":
            return self._machine.full_check(), b""
        if command == "suspend":
            raw = record.dump(self._machine.suspend())
            return {"bytes": len(raw)}, raw
        if command == "quit":
            return {"quit": True}, b""
        raise ValueError("no such command: %r" % command)
