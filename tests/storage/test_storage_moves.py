"""Live moves of a VM with a disk on each type of SR, so that one move is five pairs of types. $SXM_SHIFTS: how many types further each disk
goes, "0 1 2 3 4" is all 25 pairs; "within": the five same-type pairs in the pool. What was measured goes to $SXM_RESULTS, a directory."""
import concurrent.futures
import glob
import json
import os
import time

import pytest
import XenAPI

from five import AFTERWARDS, PATIENCE, TYPES, logs, migrate, wait_for_writes, written
from lab.pools import leftovers

RESULTS = os.environ.get("SXM_RESULTS", "/mnt/share/results")
MOVES = os.environ.get("SXM_SHIFTS", "1").split()
WITHIN = "within"
THIN = ("ext", "nfs")
METADATA = 8 << 16
"""Bytes of an image that are no data: a few clusters of tables."""
REFUSED_UNPLUG = ("VDI_IN_USE", "SR_DEVICE_IN_USE")
"""xapi's own refusal where a VM has a disk of the SR attached, and the driver's where a tapdisk of ours has it open."""

pytestmark = pytest.mark.timeout(2400)


@pytest.mark.parametrize("shift", MOVES)
def test_live(five, shift):
    """Every disk equal at the switch, no acknowledged write missing, nothing left."""
    there = "c" if shift == WITHIN else "b"
    by = 0 if shift == WITHIN else int(shift)
    sources = list(TYPES)
    targets = [TYPES[(number + by) % len(TYPES)] for number in range(len(TYPES))]
    with five.vm([five.sr(sr_type, "a") for sr_type in sources]) as uuid:
        arguments = five.arguments(uuid, [five.uuid(sr_type, there) for sr_type in targets], there=there)
        pool, host = five.pool(there), five.host(there)
        was = leftovers.footprint(five.pool("a"), five.pool("a").xapi.VM.get_by_uuid(uuid))
        before = {vdi: five.occupied("a", vdi) for vdi, _ in five.disks(uuid, "a")}
        begun = time.time()
        status, answer, said = migrate(five.host("a"), arguments)
        assert status == 0, said + logs(five.host("a")) + logs(host)
        took = time.time() - begun
        guest = host.guest(uuid)
        wait_for_writes(guest, AFTERWARDS)
        occupied = {disk["vdi"]: five.occupied(there, disk["destination_vdi"]) for disk in answer["disks"]}
        data = written(guest)
        checked, guest_status = guest.check(), guest.status()
        figures = host.xenopsd("VM.stat", id=uuid)["migration"]
        left = leftovers.of_vm(five.pool("a"), was, moved_within=shift == WITHIN) + five.left()
        compared = {result["device"]: result for result in json.loads(figures["at_switch"]["output"] or "[]")}
        rows = [{"from": source, "to": target, "pool": "same" if shift == WITHIN else "other", "size": disk["size"],
                 "copied": disk["copied"], "mirrored": disk["mirrored_bytes"], "stall": disk["longest_stall"], "seconds": took,
                 "pause": figures["downtime"], "missing": checked["disks"][disk["device"]],
                 "equal": compared.get(disk["device"], {}).get("exit") == 0, "left": len(left),
                 "was": before[disk["vdi"]], "is": occupied[disk["vdi"]], "data": data[disk["device"]]}
                for source, target, disk in zip(sources, targets, sorted(answer["disks"], key=lambda disk: disk["device"]))]
        with open(os.path.join(RESULTS, "pairs-%s.json" % shift), "w") as out:
            json.dump(rows, out, indent=1)
        assert answer["state"] == "succeeded"
        assert (checked["missing"], guest_status["missing"], guest_status["errors"], guest_status["foreign"]) == (0, 0, 0, 0), guest_status
        assert figures["at_switch"]["exit"] == 0 and len(compared) == len(TYPES), figures
        assert all(disk["verified"] == disk["copied"] for disk in answer["disks"])
        assert left == []
        for row in rows:
            if row["to"] in THIN:
                assert row["is"] <= row["data"] + METADATA, row
            else:
                assert row["is"] >= row["size"], row


def test_what_would_disturb_a_move_is_refused_with_the_reason(five):
    """And what does not is done. The SRs are those of a disk that is on its way, at both ends."""
    with five.vm([five.sr("lvm", "a"), five.sr("nfs", "a")]) as uuid:
        arguments = five.arguments(uuid, [five.uuid("lvmoiscsi", "b"), five.uuid("ext", "b")])
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            moving = beside.submit(migrate, five.host("a"), arguments)
            until_mirrored(five.host("a"), uuid)
            for side, sr_type in (("a", "lvm"), ("a", "nfs"), ("b", "lvmoiscsi"), ("b", "ext")):
                xapi, sr = five.pool(side).xapi, five.sr(sr_type, side)
                (pbd,) = xapi.SR.get_PBDs(sr)
                refused = {"unplug": failure(xapi.PBD.unplug, pbd), "forget": failure(xapi.SR.forget, sr), "destroy": failure(xapi.SR.destroy, sr)}
                print(sr_type, side, refused)
                assert refused["unplug"][0] in REFUSED_UNPLUG and refused["forget"][0] == refused["destroy"][0] == "SR_HAS_PBD", refused
                xapi.SR.scan(sr)
            assert not moving.done(), "it was over before anything was tried"
            status, answer, said = moving.result()
        assert status == 0, said
        assert answer["state"] == "succeeded"
        wait_for_writes(five.host("b").guest(uuid), AFTERWARDS)
        assert five.host("b").guest(uuid).check()["missing"] == 0
        assert five.left() == []


def failure(function, *arguments):
    """The details of the failure that a call must end with."""
    with pytest.raises(XenAPI.Failure) as raised:
        function(*arguments)
    return raised.value.details


def until_mirrored(host, vm):
    """Wait until a migration of the VM has its first mirror, and so a tapdisk open at either side."""
    deadline = time.monotonic() + PATIENCE
    while True:
        for path in glob.glob(host.root + "/var/lib/sxm/*.json"):
            with open(path) as stream:
                entry = json.load(stream)
            if entry["state"] == "running" and vm in json.dumps(entry.get("plan", entry)) and entry["phase"] == "sync":
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)
