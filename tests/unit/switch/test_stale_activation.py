# SPDX-License-Identifier: LGPL-2.1-only
"""`activating` of a host that lost its power: taken off where it is sure that nobody is at it, and
nowhere else."""

import subprocess
import sys

import pytest

from fake_pool import add_vdi, by_name, failure, make_pool, uuid_of
from storage_motion.dom0 import inventory
from storage_motion.errors import SmFault
from storage_motion.sm import smapi
from storage_motion.switch import stale_activation
from storage_motion.xapi import xenops

VM = "99999999-8888-7777-6666-555555555555"


@pytest.fixture
def pool(monkeypatch):
    pool = make_pool("B", ["b1", "b2"])
    monkeypatch.setattr(
        inventory, "host_uuid", lambda: uuid_of(pool, "host", by_name(pool, "host", "b1"))
    )
    return pool


def disk(pool, sr="b1-sr", **sm_config):
    ref = add_vdi(pool, by_name(pool, "SR", sr), sm_config=dict(sm_config))
    return pool.tables["VDI"][ref]


def test_a_dead_one_is_ended(pool):
    vdi = disk(pool, activating="True", other="kept")
    assert stale_activation.end_dead(pool, vdi["uuid"]) is True
    assert vdi["sm_config"] == {"other": "kept"}
    assert stale_activation.end_dead(pool, vdi["uuid"]) is False


def test_one_that_a_process_is_at_is_not(pool):
    vdi = disk(pool, activating="True")
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "<?xml ...%s..." % vdi["uuid"]], stdin=subprocess.PIPE
    ) as process:
        assert (
            stale_activation.end_dead(pool, vdi["uuid"]) is False
            and "activating" in vdi["sm_config"]
        )
        process.communicate(b"\n", timeout=60)
    assert stale_activation.end_dead(pool, vdi["uuid"]) is True


def test_one_that_another_host_may_be_at_is_not(pool):
    elsewhere = disk(pool, "b2-sr", activating="True")
    assert stale_activation.end_dead(pool, elsewhere["uuid"]) is False
    shared = disk(pool, activating="True")
    pool.tables["SR"][shared["SR"]]["PBDs"] = (
        pool.tables["SR"][shared["SR"]]["PBDs"] + pool.tables["SR"][elsewhere["SR"]]["PBDs"]
    )
    assert stale_activation.end_dead(pool, shared["uuid"]) is False
    assert "activating" in elsewhere["sm_config"] and "activating" in shared["sm_config"]


@pytest.mark.parametrize("uuid", [None, "", "11111111-2222-3333-4444-555555555555"])
def test_no_disk(pool, uuid):
    assert stale_activation.end_dead(pool, uuid) is False


class Here:
    """A host whose xenopsd knows VMs ({uuid: power state}), and whose xapi and SM do what they are
    told to; `log`: that.

    `held`: {datapath: (SR's UUID, location of the VDI)}, as xapi's storage layer believes. SM takes
    the mark of the host from a VDI that `stuck` does not name."""

    def __init__(self, pool, monkeypatch, **known):
        self.known, self.log, self.held, self.stuck, self.refuses = known, [], {}, [], False
        self.host = by_name(pool, "host", "b1")
        self.key = "host_" + self.host
        monkeypatch.setattr(xenops.Xenops, "local", lambda session, label: self)
        monkeypatch.setattr(smapi, "call", self.sm)
        pool.handlers.update(
            {"host.get_sm_diagnostics": self.diagnostics, "host.sm_dp_destroy": self.destroy}
        )
        self._pool = pool

    def power_state(self, vm):
        return self.known.get(vm)

    def sm(self, session, sr, command, vdi_ref, timeout):
        self.log.append(command)
        del self._pool.tables["VDI"][vdi_ref]["sm_config"][self.key]

    def holds(self, vdi, *names):
        """xapi believes that these datapaths have the VDI."""
        self.held.update(
            (name, (self._pool.tables["SR"][vdi["SR"]]["uuid"], vdi["location"])) for name in names
        )

    def diagnostics(self, host):
        assert host == self.host
        lines = ["DataPath information:", "The following SRs are attached:"]
        for name, (sr, location) in self.held.items():
            lines += [
                "    SR " + sr,
                "        VDI " + location,
                '            activated RW (device=Some {"a": "SR x"})',
                "                DP: %s: activated RW  ** LEAKED" % name,
            ]
        return "\n".join(
            lines + ["", "No errors have been logged.", "", "Backend information:", "For SR: x"]
        )

    def destroy(self, host, name, allow_leak):
        assert (host, allow_leak) == (self.host, False)
        self.log.append(name)
        if self.refuses:
            raise failure("SR_BACKEND_FAILURE_46", "", "The VDI is not available", "")
        _, location = self.held.pop(name)
        for vdi in self._pool.tables["VDI"].values():
            if vdi["location"] == location and location not in self.stuck:
                vdi["sm_config"].pop(self.key, None)


@pytest.mark.parametrize("known", [{}, {VM: "Halted"}])
def test_what_a_vm_has_left_behind_is_let_go_of_by_xapi(pool, monkeypatch, known):
    """Through its own datapaths, and not behind its back."""
    here = Here(pool, monkeypatch, **known)
    vdi, other = disk(pool, **{here.key: "RW", "other": "kept"}), disk(pool, **{here.key: "RW"})
    here.holds(vdi, "vbd/7/xvda", "vbd/9/xvda")
    here.holds(other, "vbd/8/xvda")
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is True
    assert (
        vdi["sm_config"] == {"other": "kept"}
        and here.log == ["vbd/7/xvda", "vbd/9/xvda"]
        and list(here.held) == ["vbd/8/xvda"]
    )
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is False and len(here.log) == 2


def test_one_that_is_only_attached_is_let_go_of(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    vdi = disk(pool)
    here.holds(vdi, "vbd/7/xvda")
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is True and here.log == [
        "vbd/7/xvda"
    ]


def test_a_mark_of_which_xapi_knows_nothing_is_sms_own(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    vdi = disk(pool, **{here.key: "RW"})
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is True
    assert vdi["sm_config"] == {} and here.log == ["vdi_let_go"]


def test_and_one_that_stays_behind_the_datapath(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    vdi = disk(pool, **{here.key: "RW"})
    here.holds(vdi, "vbd/7/xvda")
    here.stuck.append(vdi["location"])
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is True and here.log == [
        "vbd/7/xvda",
        "vdi_let_go",
    ]


def test_what_sm_refuses_is_told(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    vdi = disk(pool, **{here.key: "RW"})
    here.holds(vdi, "vbd/7/xvda")
    here.refuses = True
    with pytest.raises(SmFault) as told:
        stale_activation.let_go_dead(pool, vdi["uuid"], VM)
    assert told.value.details == [
        "sm_dp_destroy",
        "",
        "SR_BACKEND_FAILURE_46  The VDI is not available ",
    ] and here.log == ["vbd/7/xvda"]


def test_a_datapath_of_dom0_is_somebody_elses(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    vdi = disk(pool)
    here.holds(vdi, "vbd/0/xvda", "a copy")
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is False and here.log == []


@pytest.mark.parametrize(
    "known", [{VM: "Running"}, {VM: "Suspended"}, {xenops.incoming(VM): "Paused"}]
)
def test_what_a_vm_has_is_not(pool, monkeypatch, known):
    here = Here(pool, monkeypatch, **known)
    vdi = disk(pool, **{here.key: "RW"})
    here.holds(vdi, "vbd/7/xvda")
    assert stale_activation.let_go_dead(pool, vdi["uuid"], VM) is False and not here.log


def test_nor_what_another_host_another_vm_or_a_process_has(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    elsewhere = disk(pool, **{"host_" + by_name(pool, "host", "b2"): "RW"})
    assert stale_activation.let_go_dead(pool, elsewhere["uuid"], VM) is False
    plugged = disk(pool, **{here.key: "RW"})
    here.holds(plugged, "vbd/7/xvda")
    plugged["VBDs"] = [pool.add("VBD", VM=pool.add("VM"), currently_attached=True)]
    assert stale_activation.let_go_dead(pool, plugged["uuid"], VM) is False
    busy = disk(pool, **{here.key: "RW"})
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "<?xml ...%s..." % busy["uuid"]], stdin=subprocess.PIPE
    ) as process:
        assert stale_activation.let_go_dead(pool, busy["uuid"], VM) is False
        process.communicate(b"\n", timeout=60)
    assert not here.log
    assert stale_activation.let_go_dead(pool, None, VM) is False
