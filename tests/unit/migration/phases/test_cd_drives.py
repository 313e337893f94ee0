# SPDX-License-Identifier: LGPL-2.1-only
"""A CD that is ejected for the move: put back if the move is taken back, and its namesake put in
where the VM has arrived."""

import pytest

from fake_migration import make_plan
from fake_pool import NULL, add_sr, add_vdi, add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.errors import Unreachable
from storage_motion.migration.phases import cd_drives
from storage_motion.plan.plan import Cd


class Moved:
    """A VM whose one drive has "setup.iso", before and after its move from pool A to pool B."""

    def __init__(self):
        self.source, self.destination = make_pool("A", ["a1"]), make_pool("B", ["b1"])
        self.vms, self.drives, self.vdis = {}, {}, {}
        for pool, host, vdi in ((self.source, "a1", None), (self.destination, "b1", NULL)):
            there = by_name(pool, "host", host)
            iso = add_vdi(pool, add_sr(pool, "isos", [there], content_type="iso"))
            vm = add_vm(pool, there, [], by_name(pool, "network", "guests"))
            drive = pool.add(
                "VBD",
                VM=vm,
                VDI=NULL if vdi else iso,
                type="CD",
                empty=bool(vdi),
                userdevice="3",
                device="",
            )
            pool.tables["VM"][vm]["VBDs"] = [drive]
            pool.handlers["VBD.insert"] = self._insert(pool)
            pool.handlers["VBD.eject"] = self._eject(pool)
            self.vms[pool], self.drives[pool] = vm, pool.tables["VBD"][drive]
            self.vdis[pool] = iso
        self.id, self.entry, self.calls = "m", {}, []
        cd = Cd(
            vbd=self.drives[self.source]["uuid"],
            vdi=uuid_of(self.source, "VDI", self.vdis[self.source]),
            device="xvdd",
            eject=True,
            userdevice="3",
            name="setup.iso",
            insert=uuid_of(self.destination, "VDI", self.vdis[self.destination]),
        )
        self.plan = make_plan(
            cds=[cd], vm=uuid_of(self.destination, "VM", self.vms[self.destination])
        )

    def _insert(self, pool):
        def insert(vbd, vdi):
            self.calls.append("insert")
            if not pool.tables["VBD"][vbd]["empty"]:
                raise failure("VBD_NOT_EMPTY", vbd)
            pool.tables["VBD"][vbd].update(VDI=vdi, empty=False)
            return ""

        return insert

    def _eject(self, pool):
        def eject(vbd):
            self.calls.append("eject")
            if pool.tables["VBD"][vbd]["empty"]:
                raise failure("VBD_IS_EMPTY", vbd)
            pool.tables["VBD"][vbd].update(VDI=NULL, empty=True)
            return ""

        return eject

    def note(self, **fields):
        self.entry.update(fields)

    def warn(self, text):
        self.entry.setdefault("warnings", []).append(text)

    def arrive(self):
        cd_drives.insert_namesakes(self)


@pytest.fixture
def m():
    return Moved()


def test_it_is_ejected_once_and_put_back_once(m):
    drive = m.drives[m.source]
    cd_drives.eject(m)
    cd_drives.eject(m)
    assert drive["empty"] and m.calls == ["eject"]
    cd_drives.insert(m)
    cd_drives.insert(m)
    assert drive["VDI"] == m.vdis[m.source] and m.calls == ["eject", "insert"]


def test_its_namesake_is_put_in_once(m):
    m.arrive()
    m.arrive()
    assert m.drives[m.destination]["VDI"] == m.vdis[m.destination] and m.calls == ["insert"]
    assert m.entry == {}


def test_what_somebody_has_put_in_meanwhile_stays(m):
    m.drives[m.destination].update(VDI="OpaqueRef:other", empty=False)
    m.arrive()
    assert m.drives[m.destination]["VDI"] == "OpaqueRef:other" and m.calls == []


@pytest.mark.parametrize("changes", [{"insert": ""}, {"eject": False}])
def test_a_drive_that_is_to_stay_as_it_is(m, changes):
    m.plan = m.plan._replace(cds=[m.plan.cds[0]._replace(**changes)])
    m.arrive()
    assert m.drives[m.destination]["empty"] and m.calls == []


def test_nothing_is_put_into_a_suspended_vms_drive(m):
    """xapi would refuse it, and to put it in by hand."""
    memory = make_plan().disks[0]._replace(vbd="")
    m.plan = m.plan._replace(disks=[memory])
    assert m.plan.suspended
    m.arrive()
    assert m.calls == [] and m.entry == {}


def test_one_that_cannot_be_put_in_is_told_and_ends_nothing(m):
    def refuse(vbd, vdi):
        raise failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", "OpaqueRef:sr")

    m.destination.handlers["VBD.insert"] = refuse
    m.arrive()
    (text,) = m.entry["warnings"]
    assert "setup.iso" in text and "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED" in text
    assert "xe vm-cd-insert" in text


def test_one_that_is_gone_meanwhile_is_told(m):
    del m.destination.tables["VDI"][m.vdis[m.destination]]
    m.arrive()
    assert "UUID_INVALID" in m.entry["warnings"][0]


@pytest.mark.parametrize("fault", [OSError("timed out"), Unreachable("https://x", "away")])
def test_a_xapi_that_does_not_answer_ends_nothing(m, fault):
    def hang(vbd, vdi):
        raise fault

    m.destination.handlers["VBD.insert"] = hang
    m.arrive()
    assert len(m.entry["warnings"]) == 1
