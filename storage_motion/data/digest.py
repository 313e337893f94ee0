"""The digest by which source and destination are compared: BLAKE2b with 256 bits, over ranges of a disk, one after the other.

Chosen for 0.7 to 0.9 GB/s on Python 3.6 as on 3.11, off the interpreter's lock (facts/qemu-storage-daemon.md section 2.5).
"""
import hashlib

from storage_motion.data import nbd_client

READ_PIECE = 256 << 10  # small enough that hashing one piece overlaps with reading the next ones


def of_buffers(buffers):
    """The digest, in hex, of bytes-like `buffers` in their order."""
    state = hashlib.blake2b(digest_size=32)
    for buffer in buffers:
        state.update(buffer)
    return state.hexdigest()


def of_disk(client, ranges):
    """The digest, in hex, of `ranges` ((offset, length) in bytes) as `client` (nbd_client.Client, idle) reads them.

    Raises RequestFailed, ConnectionLost, ProtocolError.
    """
    state = hashlib.blake2b(digest_size=32)
    wanted = [piece for offset, length in ranges for piece in nbd_client.pieces(offset, length, READ_PIECE)]
    arrived = {}    # index of a piece -> its data, where an earlier one is still missing
    asked = hashed = 0
    while hashed < len(wanted):
        while asked < len(wanted) and not client.full:
            client.start_read(*wanted[asked], tag=asked)
            asked += 1
        index, data = client.reap()
        arrived[index] = data
        while hashed in arrived:
            state.update(arrived.pop(hashed))
            hashed += 1
    return state.hexdigest()
