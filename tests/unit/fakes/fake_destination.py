# SPDX-License-Identifier: LGPL-2.1-only
"""A destination's pool whose SM, receiver and firewall are faked."""

import json
import os

from fake_pool import GIB, add_vdi, by_name, failure, make_pool, uuid_of
from storage_motion.dom0 import firewall, gate_notes, inventory, launch
from storage_motion.errors import MotionError, SmFault
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import at_destination
from storage_motion.sm import marks, smapi
from storage_motion.xapi import managed

ID = "11111111-2222-3333-4444-555555555555"
VM = "99999999-8888-7777-6666-555555555555"
KEYS = ["%08d-0000-0000-0000-000000000000" % number for number in range(2)]


class Destination:
    """A pool whose SM and receiver are faked: `fails` names what fails ("create", a command of
    MirrorSR, "receiver")."""

    def __init__(self, monkeypatch):
        self.pool = make_pool("B", ["b1"])
        self.sr = by_name(self.pool, "SR", "b1-sr")
        self.pool.handlers["SR.get_VDIs"] = lambda sr: sorted(self.vdis())
        self.fails, self.sm_calls, self.count = None, [], 0
        self.closes = smapi.CLOSED_IN_ORDER  # what vdi_receive_abort answers
        self.unnamed, self.unprovable = [], False
        self.larger = 0  # bytes by which SM rounds up
        self.blank = True  # what SM says of each VDI that is opened
        self.makes = None  # the format in which SM makes a disk if none is asked for
        self.pool.handlers["SR.scan"] = lambda sr: ""
        self.pool.handlers["VDI.create"] = self.create
        self.pool.handlers["host.get_address"] = lambda ref: "10.0.0.1"
        monkeypatch.setattr(
            inventory,
            "host_uuid",
            lambda: uuid_of(self.pool, "host", by_name(self.pool, "host", "b1")),
        )
        monkeypatch.setattr(smapi, "call", self.sm)
        monkeypatch.setattr(managed.sessions, "local", self.pool.local)
        monkeypatch.setattr(launch, "start", self.start)
        self.open_ports = set()
        monkeypatch.setattr(firewall, "open_port", self.open_port)
        monkeypatch.setattr(firewall, "close_port", self.open_ports.discard)

    def create(self, record):
        self.count += 1
        if self.fails == "create %d" % self.count:
            raise failure("SR_FULL")
        vdi = add_vdi(
            self.pool,
            record["SR"],
            int(record["virtual_size"]) + self.larger,
            other_config=record["other_config"],
            tags=record["tags"],
            sm_config=dict(
                {"image-format": self.makes} if self.makes else {}, **record["sm_config"]
            ),
        )
        if self.fails == "after create %d" % self.count:
            raise failure("LOST")
        return vdi

    def sm(self, session, sr, command, vdi_ref=None, args=(), timeout=None):
        self.sm_calls.append(command)
        if command == "sr_remove_unnamed":
            self.unnamed.append((sr, args))
            if self.unprovable:
                raise SmFault(command, 489, "its images are not files")
            return None
        if self.fails == "%s %d" % (command, self.sm_calls.count(command)):
            raise SmFault(command, 482, "no")
        config = self.pool.tables["VDI"][vdi_ref]["sm_config"]
        if command == "vdi_receive_start":
            assert not self.pool.tables["VDI"][vdi_ref]["managed"], (
                "others could begin with it while its gate is being shut"
            )
            config.update({"paused": marks.SHUT, "relinking": marks.SHUT})
            return json.dumps({"socket": "/x", "depth": 6, "blank": self.blank})
        return self.closes if command == "vdi_receive_abort" else None

    def start(self, name, argv):
        if self.fails == "receiver":
            raise MotionError("no process")
        with open(argv[-1]) as source:
            self.spec = json.load(source)
        with open(self.spec["ready"], "w") as ready:
            json.dump({"port": 4711, "fingerprint": "f" * 64}, ready)
        process = launch.Process.of(os.getpid())
        return process

    def open_port(self, port):
        noted = [one.get("port") for one in Journal.load(ID, journal.RECEIVING).entry["receivers"]]
        assert port in noted, "it could not be found after a crash"
        self.open_ports.add(port)
        if self.fails == "firewall":
            raise MotionError("no")

    def vdis(self):
        return self.pool.tables.get("VDI", {})

    def wanted(self, **changes):
        disk = {
            "sr": uuid_of(self.pool, "SR", self.sr),
            "size": GIB,
            "name_label": "d",
            "name_description": "",
            "type": "user",
            "sharable": False,
            "other_config": {"a": "b"},
            "xenstore_data": {},
            "target": "",
        }
        return [dict(disk, key=key, **changes) for key in KEYS]

    def receive(self, disks=None, **more):
        return at_destination.receive(
            self.pool,
            dict(
                {
                    "migration": ID,
                    "vm": VM,
                    "address": "10.0.0.1",
                    "disks": json.dumps(disks or self.wanted()),
                },
                **more,
            ),
        )


def nothing_left(destination, tmp_path):
    return (
        not destination.vdis()
        and not destination.open_ports
        and journal.all_ids(journal.RECEIVING) == []
        and not (tmp_path / "run/sxm" / ID).exists()
    )


def receive_renew(destination, keys, **more):
    return at_destination.receive_renew(
        destination.pool,
        dict({"migration": ID, "address": "10.0.0.1", "disks": json.dumps(keys)}, **more),
    )


def open_gate(destination):
    """As `finish` does."""
    for vdi in destination.vdis().values():
        gate_notes.note(vdi["uuid"])
        go_back(destination)


def go_back(destination):
    """An older database."""
    for vdi in destination.vdis().values():
        for key in (marks.PAUSED, marks.RELINKING):
            vdi["sm_config"].pop(key, None)
