# SPDX-License-Identifier: LGPL-2.1-only
"""Live moves from one type of SR to another: those that $SXM_PAIRS names. What was measured goes to
$SXM_RESULTS, a directory."""

import json
import os
import time

import pytest
import XenAPI

from five import AFTERWARDS, QCOW2, ended, logs, migrate, wait_for_writes, written
from lab.pools import leftovers
from lab.storage_guest import pairs

RESULTS = os.environ.get("SXM_RESULTS", "/mnt/share/results")
PAIRS = [pairs.named(name) for name in os.environ["SXM_PAIRS"].split()]
THIN = ("ext", "nfs")
METADATA = 8 << 16
"""Bytes of an image that are no data: a few clusters of tables."""
REFUSED_UNPLUG = ("VDI_IN_USE", "SR_DEVICE_IN_USE")
"""xapi's own refusal where a VM has a disk of the SR attached, and the driver's where a tapdisk of
ours has it open."""
A_DISK_IS_MIRRORED = ("disk", "snapshot", [None], False)
"""When a worker is to stand still (lab.dom0.breakpoint): tapdisks are open at either side."""

pytestmark = pytest.mark.timeout(2400)


@pytest.mark.parametrize("pair", PAIRS, ids=pairs.name)
def test_live(five, pair):
    """The disk equal at the switch, no acknowledged write missing, nothing left."""
    there = "c" if pair.pool == pairs.SAME else "b"
    source, host = five.host("a"), five.host(there)
    with five.vm([five.sr(pair.source, "a")]) as uuid:
        arguments = five.arguments(uuid, [five.uuid(pair.target, there)], there=there)
        was = leftovers.footprint(five.pool("a"), five.pool("a").xapi.VM.get_by_uuid(uuid))
        ((vdi, _),) = five.disks(uuid, "a")
        assert five.image_format("a", vdi) == image_format(pair.source)
        before, begun = five.occupied("a", vdi), time.time()
        status, answer, said = migrate(source, arguments)
        assert status == 0, said + logs(source) + logs(host)
        took, guest = time.time() - begun, host.guest(uuid)
        wait_for_writes(guest, AFTERWARDS)
        (disk,) = answer["disks"]
        after = five.occupied(there, disk["destination_vdi"])
        assert five.image_format(there, disk["destination_vdi"]) == image_format(pair.target)
        (data,) = written(guest).values()  # later: the guest goes on writing
        checked, guest_status = guest.check(), guest.status()
        figures = host.xenopsd("VM.stat", id=uuid)["migration"]
        left = (
            leftovers.of_vm(five.pool("a"), was, moved_within=pair.pool == pairs.SAME) + five.left()
        )
        (compared,) = json.loads(figures["at_switch"]["output"])
        row = dict(
            pair._asdict(),
            size=disk["size"],
            copied=disk["copied"],
            mirrored=disk["mirrored_bytes"],
            stall=disk["longest_stall"],
            seconds=took,
            pause=figures["downtime"],
            missing=checked["missing"],
            equal=compared["exit"] == 0,
            left=len(left),
            before=before,
            after=after,
            data=data,
        )
        with open(os.path.join(RESULTS, "pair-%s.json" % pairs.name(pair)), "w") as out:
            json.dump(row, out, indent=1)
        assert answer["state"] == "succeeded"
        assert (
            checked["missing"],
            guest_status["missing"],
            guest_status["errors"],
            guest_status["foreign"],
        ) == (0, 0, 0, 0), guest_status
        assert figures["at_switch"]["exit"] == 0 and row["equal"], figures
        assert disk["verified"] == disk["copied"] > 0
        assert left == []
        if pair.target in THIN:
            assert row["after"] <= data + METADATA, row
        else:
            assert row["after"] >= disk["size"], row


def image_format(sr_type):
    """Of the images that an SR of this type makes here."""
    return "qcow2" if sr_type in QCOW2 else "vhd"


def test_what_would_disturb_a_move_is_refused_with_the_reason(five):
    """And what does not is done. The SRs are those of a disk that is on its way, at both ends."""
    with five.vm([five.sr("lvm", "a"), five.sr("nfs", "a")]) as uuid:
        arguments = five.arguments(uuid, [five.uuid("lvmoiscsi", "b"), five.uuid("ext", "b")])
        with five.held(arguments, A_DISK_IS_MIRRORED) as migration:
            for side, sr_type in (("a", "lvm"), ("a", "nfs"), ("b", "lvmoiscsi"), ("b", "ext")):
                xapi, sr = five.pool(side).xapi, five.sr(sr_type, side)
                (pbd,) = xapi.SR.get_PBDs(sr)
                refused = {
                    "unplug": failure(xapi.PBD.unplug, pbd),
                    "forget": failure(xapi.SR.forget, sr),
                    "destroy": failure(xapi.SR.destroy, sr),
                }
                print(sr_type, side, refused)
                assert (
                    refused["unplug"][0] in REFUSED_UNPLUG
                    and refused["forget"][0] == refused["destroy"][0] == "SR_HAS_PBD"
                ), refused
                xapi.SR.scan(sr)
        entry = ended(five.host("a"), migration)
        assert entry["state"] == "succeeded", (
            entry["error"],
            logs(five.host("a")),
            logs(five.host("b")),
        )
        wait_for_writes(five.host("b").guest(uuid), AFTERWARDS)
        assert five.host("b").guest(uuid).check()["missing"] == 0
        assert five.left() == []


def failure(function, *arguments):
    """The details of the failure that a call must end with."""
    with pytest.raises(XenAPI.Failure) as raised:
        function(*arguments)
    return raised.value.details
