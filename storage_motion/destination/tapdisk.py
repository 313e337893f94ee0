# SPDX-License-Identifier: LGPL-2.1-only
"""The destination's tapdisk, for a thread that waits for nothing but its poll: whole requests go
out as the socket takes them, answers come in as they arrive.

So tapdisk may stop reading until its answers are taken, which it does, and nobody waits for
anybody: it is one thread that serves the mover, sends to tapdisk, and takes its answers.
"""

from typing import Dict, Iterable, List, Optional, Tuple

from storage_motion.dom0 import blktap
from storage_motion.errors import ProtocolError
from storage_motion.wire import nbd, nbd_client, stream

NAME = "the destination's tapdisk"
# bytes of a read that is more than all requests of a copy that are with tapdisk at a time
LARGE_READ = 4 << 20


def have_memory_kept(client: nbd_client.Client) -> None:
    """Have tapdisk keep the memory of a copy's requests from one to the next. `client`: with
    nothing in flight. Raises RequestFailed, ConnectionLost.

    It allocates the data of each request anew (tapdisk-nbdserver.c, posix_memalign). glibc gives
    1 MiB back to the kernel each time, and takes new pages for the next: a quarter of tapdisk's
    processor time in a copy, more in a virtual machine (docs/performance.md). Once something
    larger has been freed, glibc keeps what is smaller, and up to twice as much in all (mallopt(3),
    M_MMAP_THRESHOLD). A QCOW2 tapdisk, which may not have as many requests, is left alone: it
    works on each cluster of a large one by itself.
    """
    if client.depth == blktap.MOST:
        client.read(0, min(LARGE_READ, client.size))


class _Connection(object):
    """What reading and writing share. `sock`: for poll()."""

    def __init__(self, client: nbd_client.Client) -> None:
        """`client`: with nothing in flight; its socket is this object's from now on."""
        client.sock.setblocking(False)
        self.sock = client.sock
        self._outgoing = stream.Outgoing(client.sock, NAME)

    def flush(self) -> bool:
        """Send what tapdisk takes now; whether that is all. Raises ConnectionLost."""
        return self._outgoing.flush()


class Writes(_Connection):
    """A connection over which tapdisk is only written to."""

    def __init__(self, client: nbd_client.Client) -> None:
        _Connection.__init__(self, client)
        self._depth = client.depth
        self._handles: "set[int]" = set()  # of the writes in flight
        self._replies = bytearray(4096)
        self._filled = 0  # bytes of it

    @property
    def in_flight(self) -> int:
        """The count of writes that are not answered."""
        return len(self._handles)

    @property
    def room(self) -> int:
        """How many more writes tapdisk may be given now."""
        return self._depth - len(self._handles)

    def start(self, messages: Iterable[memoryview], handles: Iterable[int]) -> None:
        """Have whole writes sent, whose handles are `handles`."""
        for message in messages:
            self._outgoing.push(message)
        self._handles.update(handles)

    def answers(self) -> List[Tuple[int, int]]:
        """What has been answered: (handle, error, 0 for success) of each. Raises ProtocolError,
        ConnectionLost, also if tapdisk closes."""
        count = stream.receive_some(self.sock, memoryview(self._replies)[self._filled :], NAME)
        if count is None:
            return []
        self._filled += count
        whole = self._filled - self._filled % nbd.SIMPLE_REPLY.size
        found = []
        for magic, error, handle in nbd.SIMPLE_REPLY.iter_unpack(self._replies[:whole]):
            if magic != nbd.SIMPLE_REPLY_MAGIC or handle not in self._handles:
                raise ProtocolError("tapdisk answered a request that was not made")
            self._handles.remove(handle)
            found.append((handle, nbd.reply_errno(error)))
        self._replies[: self._filled - whole] = self._replies[whole : self._filled]
        self._filled -= whole
        return found


class Reads(_Connection):
    """A connection over which tapdisk is only read from."""

    def __init__(self, client: nbd_client.Client) -> None:
        _Connection.__init__(self, client)
        self._targets: Dict[int, memoryview] = {}  # handle -> where the data goes
        self._header = bytearray(nbd.SIMPLE_REPLY.size)
        self._missing = memoryview(self._header)  # of the header, or of the data
        self._handle: Optional[int] = None  # whose data comes

    @property
    def in_flight(self) -> int:
        """The count of reads that are not answered."""
        return len(self._targets)

    def start(self, handle: int, offset: int, target: memoryview) -> None:
        """Have `target` filled with what is at `offset`."""
        self._targets[handle] = target
        self._outgoing.push(
            nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_READ, handle, offset, len(target))
        )

    def answer(self) -> Optional[Tuple[int, int]]:
        """(handle, error, 0 for success) of a read that is answered by now, if there is one. Raises
        ProtocolError, ConnectionLost, also if tapdisk closes."""
        while True:
            count = stream.receive_some(self.sock, self._missing, NAME)
            if count is None:
                return None
            self._missing = self._missing[count:]
            if self._missing:
                continue
            handle, error = self._handle, 0
            if handle is None:
                magic, error, handle = nbd.SIMPLE_REPLY.unpack(self._header)
                if magic != nbd.SIMPLE_REPLY_MAGIC or handle not in self._targets:
                    raise ProtocolError("tapdisk answered a request that was not made")
                if not error:
                    self._handle, self._missing = handle, self._targets[handle]
                    continue
            del self._targets[handle]
            self._handle, self._missing = None, memoryview(self._header)
            return handle, nbd.reply_errno(error)
