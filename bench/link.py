# SPDX-License-Identifier: LGPL-2.1-only
"""A link of so many bytes a second: a relay from a port of this machine to another one.

    python -m bench.link PORT TARGET BYTES_PER_SECOND

Each direction has that rate. All connections share it, each in its turn, as under fair queueing;
what waits is kept back in the relay by 64 KiB for each connection, and then in the sender.
"""

import collections
import select
import socket
import sys
import time

HELD = 65536  # bytes of a connection, in one direction, that the relay holds
TURN = 16384  # bytes that a connection may send in its turn
BURST = 0.005  # seconds of the link's rate that may be saved up


class Bucket(object):
    """What may be sent now."""

    def __init__(self, rate):
        self._rate, self._filled = rate, time.monotonic()
        self.tokens = 0.0

    def fill(self):
        now = time.monotonic()
        saved = max(self._rate * BURST, TURN)
        self.tokens = min(saved, self.tokens + (now - self._filled) * self._rate)
        self._filled = now


class Way(object):
    """One direction of one connection."""

    def __init__(self, source, target, bucket):
        self.source, self.target, self.bucket = source, target, bucket
        self.held = bytearray()
        self.open = True  # the source may have more to say

    def read(self):
        data = self.source.recv(HELD - len(self.held))
        self.open = bool(data)
        self.held += data
        self._pass_end_on()

    def write(self):
        count = min(TURN, len(self.held), int(self.bucket.tokens))
        sent = self.target.send(memoryview(self.held)[:count]) if count else 0
        del self.held[:sent]
        self.bucket.tokens -= sent
        self._pass_end_on()

    def _pass_end_on(self):
        if not self.open and not self.held:
            self.target.shutdown(socket.SHUT_WR)

    @property
    def done(self):
        return not self.open and not self.held


class Link(object):
    """The relay."""

    def __init__(self, port, target, rate):
        self._target = target
        self._buckets = Bucket(rate), Bucket(rate)
        self._ways = collections.deque()
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", port))
        self._listening.listen(64)

    def run(self):
        """Relay for ever."""
        while True:
            for bucket in self._buckets:
                bucket.fill()
            reading = [way for way in self._ways if way.open and len(way.held) < HELD]
            waiting = [way for way in self._ways if way.held]
            writing = [way for way in waiting if way.bucket.tokens >= min(TURN, len(way.held))]
            # those that wait for the link are looked at again when it has had time for a turn
            bound = 0.0005 if len(writing) < len(waiting) else 1.0
            readable, writable, _ = select.select(
                [way.source for way in reading] + [self._listening],
                [way.target for way in writing],
                [],
                bound,
            )
            if self._listening in readable:
                self._accept()
            for way in reading:
                if way.source in readable:
                    self._do(way, way.read)
            for way in writing:
                # who has had his turn comes after all the others; who was not served, as the link
                # had nothing left, comes first
                if way.target in writable and way.held and way.bucket.tokens >= 1:
                    self._ways.remove(way)
                    self._ways.append(way)
                    self._do(way, way.write)

    def _accept(self):
        client, server = self._listening.accept()[0], socket.socket()
        server.connect(("127.0.0.1", self._target))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(False)
        self._ways.append(Way(client, server, self._buckets[0]))
        self._ways.append(Way(server, client, self._buckets[1]))

    def _do(self, way, action):
        try:
            action()
        except BlockingIOError:
            return
        except OSError:
            self._drop(way)
            return
        others = [one for one in self._ways if one.source is way.target]
        if way.done and all(one.done for one in others):
            self._drop(way)

    def _drop(self, way):
        for one in list(self._ways):
            if one.source in (way.source, way.target):
                self._ways.remove(one)
                one.held.clear()
        way.source.close()
        way.target.close()


if __name__ == "__main__":
    Link(*map(int, sys.argv[1:])).run()
