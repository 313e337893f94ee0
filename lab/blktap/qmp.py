# SPDX-License-Identifier: LGPL-2.1-only
"""The monitor of a qemu-storage-daemon: commands, and the jobs' state changes."""

import json
import socket
import time


class MonitorError(Exception):
    """A command was refused, the monitor did not answer in time, or it went away."""


class Monitor(object):
    """One connection to a monitor socket. QEMU serves one at a time, the others wait for their
    turn."""

    def __init__(self, path, timeout):
        """Connect to `path`. `timeout` (s) bounds this and each command. OSError if nobody
        listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        self._events = []
        self._timeout = timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._greeted(time.monotonic() + timeout)
            self.command("qmp_capabilities")
        except Exception:
            self._socket.close()
            raise

    def _greeted(self, until):
        """QEMU may tell of an event before it greets (seen once)."""
        while True:
            message = self._message(until)
            if "QMP" in message:
                return
            self._events.append(message)

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def command(self, execute, **arguments):
        """Run a command; `_` in the arguments' names stands for `-`. Returns its answer;
        MonitorError if refused."""
        call = {"execute": execute}
        if arguments:
            call["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps(call).encode() + b"\n")
        until = time.monotonic() + self._timeout
        while True:
            message = self._message(until)
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise MonitorError("%s: %s" % (execute, message["error"]["desc"]))
            elif "return" not in message:  # it greets once more, say (seen of 7.2, under load)
                raise MonitorError("%s: QEMU says %s" % (execute, sorted(message)))
            else:
                return message["return"]

    def job(self, identity):
        """What query-jobs says about a job; None if there is no such job."""
        for job in self.command("query-jobs"):
            if job["id"] == identity:
                return job
        return None

    def wait_for_job(self, identity, *statuses):
        """Wait until job `identity` has one of `statuses` and return what query-jobs then says."""
        until = time.monotonic() + self._timeout
        while True:
            job = self.job(identity)
            if job is None:
                raise MonitorError("job %s is gone" % identity)
            if job["status"] in statuses:
                return job
            self.wait_for_event("JOB_STATUS_CHANGE", identity, until)

    def wait_for_event(self, name, identity, until=None):
        """Wait for event `name` about the job or export `identity` (events since the connection was
        made count)."""
        until = until or time.monotonic() + self._timeout
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == name and event["data"].get("id") == identity:
                    return
            self._events.append(self._message(until))

    def wait_for_end(self, timeout):
        """Wait until the daemon closes the connection, which it does when it exits."""
        until = time.monotonic() + timeout
        try:
            while True:
                self._message(until)
        except (MonitorGone, ConnectionError):
            pass

    def _message(self, until):
        while b"\n" not in self._received:
            left = until - time.monotonic()
            if left <= 0:
                raise MonitorTimeout("no answer within %s s" % self._timeout)
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except socket.timeout:
                continue
            if not data:
                raise MonitorGone("the daemon is gone")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return json.loads(line.decode())


class MonitorTimeout(MonitorError):
    """No answer in time."""


class MonitorGone(MonitorError):
    """The daemon ended."""
