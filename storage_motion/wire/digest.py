# SPDX-License-Identifier: LGPL-2.1-only
"""The digest by which source and destination are compared, over ranges of a disk, one after the
other. 256 bits, of either kind.

Which of them is the faster one depends on the host, by a factor of three both ways: SHA-256 where
processor and OpenSSL have instructions for it, BLAKE2b elsewhere (docs/facts/qemu-storage-daemon.md
section 2.5). Hashing is most of the copier's work, so it looks.
"""

import functools
import hashlib
import time
from typing import Callable, Dict, Iterable, List, Sequence, Union

from storage_motion.errors import ProtocolError
from storage_motion.wire import nbd_client
from storage_motion.wire.stream import Buffer

Hash = Union["hashlib._Hash", hashlib.blake2b]

ALGORITHMS: Dict[str, Callable[..., Hash]] = {
    "blake2b": functools.partial(hashlib.blake2b, digest_size=32),
    "sha256": hashlib.sha256,
}
TRIAL = bytes(256 << 10)  # bytes to hash, to see how fast it goes: about a millisecond
TRIALS = 3
READ_PIECE = 256 << 10  # small enough that hashing one piece overlaps with reading the next ones


def fastest() -> str:
    """The name of the algorithm that is the faster one here and now."""
    return min(
        sorted(ALGORITHMS), key=lambda name: min(_trial(ALGORITHMS[name]) for _ in range(TRIALS))
    )


def _trial(algorithm: Callable[..., Hash]) -> float:
    began = time.perf_counter()
    algorithm(TRIAL).digest()
    return time.perf_counter() - began


def new(name: object) -> Hash:
    """A fresh hash object. Raises ProtocolError for a name that is none of ALGORITHMS."""
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise ProtocolError("unknown digest algorithm")
    return ALGORITHMS[name]()


def of_buffers(name: str, buffers: Iterable[Buffer]) -> str:
    """The digest, in hex, of bytes-like `buffers` in their order, by algorithm `name`."""
    state = new(name)
    for buffer in buffers:
        state.update(buffer)
    return state.hexdigest()


@functools.lru_cache(maxsize=64)
def of_zeros(name: str, length: int) -> str:
    """The digest, in hex, of `length` zero bytes, by algorithm `name`."""
    return of_buffers(name, [bytes(length)])


def of_disk(name: object, client: nbd_client.Client, ranges: Iterable[Sequence[int]]) -> str:
    """The digest, in hex, of `ranges` ((offset, length) in bytes) as `client` (nbd_client.Client,
    idle) reads them.

    Raises RequestFailed, ConnectionLost, ProtocolError.
    """
    state = new(name)
    wanted = [
        piece
        for offset, length in ranges
        for piece in nbd_client.pieces(offset, length, READ_PIECE)
    ]
    # index of a piece -> its data, where an earlier one is still missing
    arrived: Dict[int, bytearray] = {}
    asked = hashed = 0
    while hashed < len(wanted):
        while asked < len(wanted) and not client.full:
            client.start_read(*wanted[asked], tag=asked)
            asked += 1
        index, data = client.reap()
        assert isinstance(data, bytearray)
        arrived[index] = data
        while hashed in arrived:
            state.update(arrived.pop(hashed))
            hashed += 1
    return state.hexdigest()


def of_parts(
    name: object, client: nbd_client.Client, parts: Sequence[Sequence[Sequence[int]]]
) -> List[str]:
    """The digests, in hex, of `parts`, each a list of ranges ((offset, length) in bytes), ascending
    as the parts are. All that lies between the first and the last one is read, once, so that many
    small parts cost no read each.

    Raises RequestFailed, ConnectionLost, ProtocolError.
    """
    first = parts[0][0][0]
    end = sum(parts[-1][-1])
    data = memoryview(bytearray(end - first))
    wanted = nbd_client.pieces(first, end - first, READ_PIECE)
    left = True
    while left or client.in_flight:
        while left and not client.full:
            piece = next(wanted, None)
            left = piece is not None
            if piece is not None:
                client.start_read(*piece, tag=piece[0] - first)
        if client.in_flight:
            at, read = client.reap()
            assert isinstance(read, bytearray)
            data[at : at + len(read)] = read
    found = []
    for part in parts:
        state = new(name)
        for offset, length in part:
            state.update(data[offset - first : offset - first + length])
        found.append(state.hexdigest())
    return found
