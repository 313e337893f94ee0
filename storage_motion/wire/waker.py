# SPDX-License-Identifier: LGPL-2.1-only
"""Has a thread that waits in poll() look again, at the word of any other thread."""

import select
import socket
from typing import Container


class Waker(object):
    """To be polled by the one thread, and called by the others; `close` is the polling thread's."""

    def __init__(self) -> None:
        self._heard, self._said = socket.socketpair()
        for end in (self._heard, self._said):
            end.setblocking(False)

    def wake(self) -> None:
        """Have the thread go on. No error if it is awake already, or has ended."""
        try:
            self._said.send(b"w")
        except (BlockingIOError, OSError):
            pass  # there is a word for it already, or nobody listens any more

    def register(self, poll: "select.poll") -> None:
        """Have a poll object of the thread's end at a word."""
        poll.register(self._heard, select.POLLIN)

    def clear(self, ready: Container[int]) -> None:
        """Forget the words that ended a poll, whose ready file descriptors are `ready`."""
        if self._heard.fileno() in ready:
            self._heard.recv(4096)

    def close(self) -> None:
        """Of no use any more."""
        self._heard.close()
        self._said.close()
