"""One disk from end to end: the real mover and receiver over TLS, while the guest goes on writing."""
import random
import shutil
import time

import pytest

from data_harness import MIB, Mover, Receiver, Site, Tapdisk, eventually, pattern, random_batch, same_bytes

SIZE = 48 * MIB


@pytest.fixture
def site():
    with Site() as site:
        yield site


def source_of(site):
    """A snapshot with data, zeros written as data, and holes: (leaf image, snapshot image, extents)."""
    content = pattern(1, 20 * MIB) + bytes(4 * MIB) + pattern(2, 5 * MIB + 512) + bytes(SIZE - 29 * MIB - 512)
    leaf = site.image("leaf", content)
    shutil.copy(leaf, site.path("snapshot"))
    return leaf, site.path("snapshot"), [[0, 24 * MIB], [24 * MIB, 5 * MIB + 512]]


@pytest.mark.parametrize("blank", [True, False])
def test_a_guest_that_writes_all_the_time_loses_nothing(site, blank):
    leaf, snapshot, extents = source_of(site)
    destination = site.image("destination", bytes(SIZE) if blank else pattern(3, SIZE))
    _, leaf_socket = site.serve(leaf)
    _, snapshot_socket = site.serve(snapshot)
    _, destination_socket = site.serve(destination)
    receiver = Receiver(site, {"d": (destination_socket, SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    guest = Tapdisk(leaf_socket, mover.secondary, SIZE)
    generator = random.Random(4)
    guest.write(random_batch(generator, SIZE, 32))
    mover.copy(snapshot_socket, extents, SIZE, blank)
    while mover.ask("status")["copy"]["state"] == "running":
        for _ in range(10):
            guest.write(random_batch(generator, SIZE, 16))
    status = mover.ask("status")
    assert status["copy"]["state"] == "done", status
    guest.write(random_batch(generator, SIZE, 32))
    assert guest.mirror is not None
    refused = mover.ask("finish")
    assert refused["ok"] is False and "mirroring" in refused["error"]
    assert not receiver.gate_opened("d")
    guest.detach()
    status = eventually(lambda: [s for s in [mover.ask("status")] if s["state"] == "ended"], "the mirror ends")[0]
    assert status["clean"] and status["attachments"] == 1 and status["mirrored_writes"] > 60
    copy = status["copy"]
    assert copy["verified"] + copy["skipped"] == copy["to_copy"] == (29 * MIB + 512 if blank else SIZE)
    assert copy["skipped"] > 0
    assert mover.ask("finish") == {"ok": True}
    assert mover.ask("finish") == {"ok": True}      # once more is no harm
    assert receiver.gate_opened("d")
    assert same_bytes(leaf, destination)
    assert not same_bytes(snapshot, destination)
    assert mover.ask("exit") == {"ok": True}
    assert mover.process.wait(10) == 0
    assert receiver.ask("status")["disks"]["d"]["gate"] == "open"
    assert receiver.ask("exit") == {"ok": True}
    assert receiver.process.wait(10) == 0
    assert receiver.token not in site.log("receiver") + site.log("d")
