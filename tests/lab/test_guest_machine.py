# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's guest against a real NBD server: what it remembers, what it finds, what it takes
along."""

import subprocess

import pytest

from lab.guest import content, record
from lab.guest.machine import Machine, Settings, settings_from
from lab.guest.nbd import connect
from tests.eventually import eventually

SIZE = 8 << 20


@pytest.fixture
def disks(tmp_path):
    """Two raw files, each served by a qemu-storage-daemon of its own."""
    disks = []
    for device in ("xvda", "xvdb"):
        image = tmp_path / device
        image.write_bytes(bytes(SIZE))
        disks.append({"device": device, "rw": True, "image": image})
    # the guest asks for tapdisk's export name: one daemon, one socket per disk
    processes = []
    for disk in disks:
        disk["socket"] = str(tmp_path / ("n-" + disk["device"]))
        processes.append(
            subprocess.Popen(
                [
                    "qemu-storage-daemon",
                    "--nbd-server",
                    "addr.type=unix,addr.path=" + disk["socket"],
                    "--blockdev",
                    "driver=file,node-name=f,filename=%s" % disk["image"],
                    "--export",
                    "nbd,id=e,node-name=f,name=tapdisk_client,writable=on",
                ]
            )
        )
    eventually(
        lambda: all((tmp_path / ("n-" + disk["device"])).exists() for disk in disks), "they listen"
    )
    yield disks
    for process in processes:
        process.kill()
        process.wait()


def machine(**changes):
    return Machine(
        "vm",
        Settings(
            **dict(
                dict(seed="s", writes=400.0, reads=0.3, workers=3, hot=4, fill=0.25, reach=0),
                **changes,
            )
        ),
        connect,
    )


def run_until(guest, enough):
    eventually(lambda: enough(guest.status()), "enough", seen=guest.status)


def test_it_writes_reads_back_and_finds_everything(disks):
    guest = machine()
    guest.run(disks)
    run_until(
        guest, lambda status: status["writes_acknowledged"] > 200 and status["reads_checked"] > 20
    )
    assert guest.full_check()["missing"] == 0
    guest.suspend()
    status = guest.status()
    assert (status["missing"], status["errors"], status["foreign"]) == (0, 0, 0)
    assert {disk["writes_acknowledged"] > 50 for disk in status["disks"]} == {True}


def test_it_takes_its_memory_along_and_checks_every_byte(disks):
    guest = machine()
    guest.run(disks)
    run_until(guest, lambda status: status["writes_acknowledged"] > 100)
    memory = record.dump(guest.suspend())
    moved = machine()
    moved.restore(record.load(memory))
    moved.run(disks)
    run_until(moved, lambda status: status["pauses"])
    assert moved.full_check()["missing"] == 0
    status = moved.status()
    assert status["moves"] == 1 and status["pauses"][0] > 0
    assert status["writes_acknowledged"] > guest.status()["writes_acknowledged"]
    moved.suspend()


def test_a_lost_write_and_a_foreign_sector_are_missing(disks):
    guest = machine(hot=0)
    guest.run(disks)
    run_until(guest, lambda status: status["writes_acknowledged"] > 50)
    guest.suspend()
    disk = guest.disks[0]
    sector = next(
        index for index, generation in enumerate(disk.record.generations) if generation > 1
    )
    never = next(
        index for index, generation in enumerate(disk.record.generations) if generation == 0
    )
    connection = connect(disks[0])
    older = content.sector_bytes(disk.record.key, sector, disk.record.generations[sector] - 1)
    connection.write(sector * 512, older)
    connection.write(never * 512, b"x" * 512)
    connection.close()
    assert guest.full_check()["missing"] == 2
    assert {
        "sector": sector,
        "expected": disk.record.generations[sector],
        "found": disk.record.generations[sector] - 1,
    } in disk.examples
    assert {"sector": never, "expected": 0, "found": content.FOREIGN} in disk.examples


def test_at_a_boot_it_learns_what_is_on_its_disks(disks):
    guest = machine()
    guest.run(disks)
    run_until(guest, lambda status: status["writes_acknowledged"] > 50)
    guest.suspend()
    again = machine()
    again.run(disks)
    again.suspend()
    assert (
        again.disks[0].record.generations == guest.disks[0].record.generations
        or again.status()["writes_acknowledged"] > 0
    )
    assert again.full_check()["missing"] == 0


def test_the_same_seed_fills_the_same_bytes():
    key = content.disk_key("s", "xvda")
    assert content.sector_bytes(key, 7, 3) == content.sector_bytes(
        content.disk_key("s", "xvda"), 7, 3
    )
    assert content.generation_of(key, 7, content.sector_bytes(key, 7, 3)) == 3
    assert content.generation_of(key, 8, content.sector_bytes(key, 7, 3)) == content.FOREIGN
    torn = content.sector_bytes(key, 7, 3)[:256] + content.sector_bytes(key, 7, 4)[256:]
    assert content.generation_of(key, 7, torn) == content.FOREIGN


def test_settings_come_as_strings_and_unknown_ones_are_refused():
    assert settings_from({"writes": "20", "workers": "2"})[1:4] == (20.0, 0.25, 2)
    with pytest.raises(ValueError, match="wirtes"):
        settings_from({"wirtes": "20"})
