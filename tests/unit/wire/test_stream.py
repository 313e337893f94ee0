# SPDX-License-Identifier: LGPL-2.1-only
"""What is told of a connection."""

import socket

import pytest

from storage_motion.wire import stream
from tests.eventually import eventually


@pytest.fixture
def tcp():
    """Both ends of a connection by TCP."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        one = socket.create_connection(listening.getsockname())
        other = listening.accept()[0]
    with one, other:
        yield one, other


def test_what_the_network_has_still_to_carry_is_seen(tcp):
    one, other = tcp
    assert stream.unacknowledged(one) == 0
    one.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += one.send(bytes(1 << 20))
    assert stream.unacknowledged(one) > 0
    stream.receive_steadily(other, sent)
    eventually(lambda: stream.unacknowledged(one) == 0, "all is acknowledged")
