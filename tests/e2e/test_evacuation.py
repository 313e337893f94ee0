# SPDX-License-Identifier: LGPL-2.1-only
"""An array is emptied: 40 disks of 12 VMs go from one SR to two others, four VMs at a time. The
machine that runs sxm dies half-way, and one VM is changed while it moves; the same command, run
again, brings it to its end, and what it tells adds up."""

import hashlib
import json
import os
import signal

import pytest

from lab.pools import leftovers, vms as made_vms
from lab.pools.topology import PoolPlan
from tests.e2e.evacuating import BOUND, Command, disks_of, summary
from tests.e2e.scene import assert_settles
from tests.eventually import eventually

MIB = 1 << 20
PLAN = (PoolPlan("A", ("a1",), False, ("old", "new1", "new2")),)
DISKS = (1, 2, 3, 4, 1, 4, 3, 4, 4, 4, 5, 5)
"""Of each VM."""
SIZE = 4 * MIB
FAILS, LARGEST = 4, 24 * MIB
"""The VM that is to fail, with one disk. It comes last, since it has most."""
RUN = (1, 6)
"""VMs that run, and write."""
GUEST = {"writes": 20, "fill": 0.3}
WORDS = ["--sr", "a1-old", "--to-sr", "a1-new1", "--to-sr", "a1-new2"]
WORDS += ["--concurrency", "4", "--per-host", "4", "--per-sr", "4"]
HALF = 5
"""VMs that have moved when sxm dies."""


@pytest.fixture
def vms(lab):
    """The VMs (refs), and one disk that no VM has."""
    pool = lab.pool("A")
    made = [
        pool.create_vm("vm%02d" % number, [(pool.sr("a1", "old"), size)] * disks, GUEST)
        for number, disks in enumerate(DISKS)
        for size in [LARGEST if number == FAILS else SIZE]
    ]
    for number in RUN + (FAILS,):
        uuid = pool.start_vm(made[number], "a1")
        guest = pool.host("a1").guest(uuid)
        eventually(lambda: guest.status()["writes_acknowledged"] >= 20, "its first writes", 30)
    pool.xapi.VM.hard_shutdown(made[FAILS])
    return made


def digests(pool, vm):
    """{UUID: digest of its image} of the disks of a halted VM."""
    found = {}
    for vdi in disks_of(pool, vm):
        record = pool.xapi.VDI.get_record(vdi)
        place = "%s/run/sr-mount/%s" % (pool.host("a1").root, pool.xapi.SR.get_uuid(record["SR"]))
        (name,) = [name for name in os.listdir(place) if name.startswith(record["location"] + ".")]
        with open(os.path.join(place, name), "rb") as image:
            found[record["uuid"]] = hashlib.sha256(image.read()).hexdigest()
    return found


@pytest.mark.timeout(600)
def test_sxm_dies_half_way_and_goes_on(lab, vms, tmp_path):
    pool, command = lab.pool("A"), Command(lab.pool("A"), tmp_path, "array")
    xapi = pool.xapi
    kept = digests(pool, vms[FAILS])

    def dies(process):
        eventually(
            lambda: len(command.events("moved")) >= HALF or process.poll() is not None,
            "half of them",
            BOUND,
        )
        process.send_signal(signal.SIGKILL)

    command.run(*WORDS, meanwhile=dies)
    before = command.events("started")
    assert HALF <= len(command.events("moved")) < len(before) < 12
    assert not command.events("finished")

    def changes(process):
        """An interface more, of which its plan knows nothing."""
        one = xapi.VM.get_uuid(vms[FAILS])
        eventually(
            lambda: (
                one in [event["vm"] for event in command.events("started")]
                or process.poll() is not None
            ),
            "the start of the one that fails",
            BOUND,
        )
        made_vms.attach_network(xapi, vms[FAILS], pool.network(), 1)

    status, said = command.run(*WORDS, "--json", meanwhile=changes)
    assert status == 4, "some have failed"
    found = summary(said)
    assert found["asked"] == {"vms": 12, "disks": 40, "bytes": 39 * SIZE + LARGEST}
    assert found["moved"] == {"vms": 11, "disks": 39, "bytes": 39 * SIZE}
    assert found["failed"] == {"vms": 1, "disks": 1, "bytes": LARGEST}
    (failed,) = [one for one in found["vms"] if one["state"] == "failed"]
    assert (failed["name"], failed["code"]) == ("vm04", "SXM_VM_CHANGED")
    assert failed["data"] == "at the source, untouched" and failed["do"]

    with open(found["report"][: -len("html")] + "json") as stream:
        reported = [one["migration"] for one in json.load(stream)["reports"]]
    assert sorted(reported) == sorted(one["migration"] for one in command.listed())

    # each was begun once, by whichever of the two, as the pool tells as well
    begun = [one["vm"] for one in command.listed()]
    assert len(begun) == len(set(begun)) == 12
    old, new = pool.sr("a1", "old"), {pool.sr("a1", "new1"), pool.sr("a1", "new2")}
    went = []
    for number, vm in enumerate(vms):
        srs = [xapi.VDI.get_SR(vdi) for vdi in disks_of(pool, vm)]
        assert len(srs) == DISKS[number]
        assert set(srs) == {old} if number == FAILS else set(srs) < new, number
        went += srs
    assert new < set(went)
    assert digests(pool, vms[FAILS]) == kept
    for number in RUN:
        guest = pool.host("a1").guest(xapi.VM.get_uuid(vms[number]))
        begun = guest.status()["writes_acknowledged"]
        eventually(lambda: guest.status()["writes_acknowledged"] > begun + 10, "writes", 30)
        assert guest.check()["missing"] == 0
    assert_settles(lambda: leftovers.at_rest(lab))
