# SPDX-License-Identifier: LGPL-2.1-only
"""The storage layer of the lab's xapi: datapaths, what of SM they need, what outlives xapi, and
what the API shows and does of it."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import xml.parsers.expat
import xmlrpc.client

import pytest

from lab.pools import daemons
from lab.xapi import automaton
from lab.xapi.automaton import ACTIVATE, DEACTIVATE, DETACH, DETACHED, RO, RW, State, attach
from lab.xapi.datapaths import STATE, Datapaths, NoVdi
from lab.xapi.failures import Failure
from storage_motion.xapi import datapaths
from test_xapi_database import PATIENCE, restarted
from test_xapi_storage import ask_storage
from tests.eventually import eventually, never
from xapi_fixture import LabPool, failure_of, make_sr, vdi_record

ATTACHED_RO, ATTACHED_RW, ACTIVE_RO, ACTIVE_RW = (
    State("attached", RO),
    State("attached", RW),
    State("activated", RO),
    State("activated", RW),
)
STATES = (DETACHED, ATTACHED_RO, ATTACHED_RW, ACTIVE_RO, ACTIVE_RW)
OPERATIONS = (attach(RO), attach(RW), ACTIVATE, DEACTIVATE, DETACH)
BAD = None
REPEATED = 300.0  # seconds for which xenopsd asks again: no test takes longer
NEGATIVE = 2.0  # seconds for which it is looked whether something does not happen

# vdi_automaton.ml, ( + ): the state after attach RO, attach RW, activate, deactivate, detach
AFTER = {
    DETACHED: (ATTACHED_RO, ATTACHED_RW, BAD, DETACHED, DETACHED),
    ATTACHED_RO: (ATTACHED_RO, BAD, ACTIVE_RO, ATTACHED_RO, DETACHED),
    ATTACHED_RW: (ATTACHED_RW, ATTACHED_RW, ACTIVE_RW, ATTACHED_RW, DETACHED),
    ACTIVE_RO: (ACTIVE_RO, BAD, ACTIVE_RO, ATTACHED_RO, BAD),
    ACTIVE_RW: (ACTIVE_RW, ACTIVE_RW, ACTIVE_RW, ATTACHED_RW, BAD),
}
# vdi_automaton.ml, ( - ): what SM is asked for from one state to another; what is not here, SM
# cannot do
PATHS = {
    (ATTACHED_RO, DETACHED): "detach",
    (ATTACHED_RW, DETACHED): "detach",
    (ACTIVE_RO, ATTACHED_RO): "deactivate",
    (ACTIVE_RW, ATTACHED_RW): "deactivate",
    (ACTIVE_RO, DETACHED): "deactivate detach",
    (ACTIVE_RW, DETACHED): "deactivate detach",
    (DETACHED, ATTACHED_RO): "attach",
    (DETACHED, ATTACHED_RW): "attach",
    (DETACHED, ACTIVE_RO): "attach activate",
    (DETACHED, ACTIVE_RW): "attach activate",
    (ATTACHED_RO, ACTIVE_RO): "activate",
    (ATTACHED_RW, ACTIVE_RW): "activate",
    **{(state, state): "" for state in STATES},
}


@pytest.mark.parametrize("state", STATES, ids=str)
def test_what_a_datapath_does(state):
    for operation, expected in zip(OPERATIONS, AFTER[state]):
        if expected is BAD:
            with pytest.raises(automaton.BadTransition):
                automaton.after(state, operation)
        else:
            assert automaton.after(state, operation) == expected


@pytest.mark.parametrize("before, wanted", list(itertools.product(STATES, STATES)), ids=str)
def test_what_sm_is_asked_for(before, wanted):
    if (before, wanted) in PATHS:
        assert (
            " ".join(operation.name for operation in automaton.path(before, wanted))
            == PATHS[before, wanted]
        )
    else:
        with pytest.raises(automaton.NoOperation):
            automaton.path(before, wanted)


def test_a_vdi_is_what_the_most_of_its_datapaths_make_of_it():
    assert automaton.superstate([]) == automaton.superstate([DETACHED]) == DETACHED
    assert automaton.superstate([ATTACHED_RO, ATTACHED_RW]) == ATTACHED_RW
    assert automaton.superstate([ATTACHED_RW, ACTIVE_RO]) == ACTIVE_RW
    assert [str(state) for state in (DETACHED, ATTACHED_RW, ACTIVE_RO)] == [
        "detached",
        "attached  RW",
        "activated RO",
    ]


class Sm:
    """What SM was asked for: `log`; an operation in `refuse` fails, and `gone`: xapi has no record
    of the VDI."""

    def __init__(self):
        self.log, self.refuse, self.gone, self.saved = [], set(), False, None
        self.layer = self.again()
        self.layer.sr_attached("sr")

    def again(self):
        """The layer of a xapi that starts anew."""
        self.layer = Datapaths(self, self.saved, lambda text: setattr(self, "saved", text))
        return self.layer

    def __call__(self, sr, vdi, operation, writable):
        if self.gone:
            raise NoVdi(vdi)
        self.log.append(
            "%s %s" % (operation, RW if writable else RO)
            if operation in ("attach", "activate")
            else operation
        )
        if operation in self.refuse:
            raise Failure("SR_BACKEND_FAILURE_46", "", "no %s" % operation, "")
        return {"params": "of %s" % vdi}

    def asked(self):
        """And forget it."""
        log, self.log = self.log, []
        return log


@pytest.fixture
def sm():
    return Sm()


def plug(sm, datapath, writable=True):
    info = sm.layer.attach(datapath, "sr", "disk", writable)
    sm.layer.activate(datapath, "sr", "disk")
    return info


def test_the_first_datapath_asks_sm_and_the_last_one(sm):
    assert plug(sm, "vbd/1/xvda") == {"params": "of disk"} and sm.asked() == [
        "attach RW",
        "activate RW",
    ]
    assert plug(sm, "vbd/2/xvda") == {"params": "of disk"} and sm.asked() == [], (
        "two writers of one host are nothing to SM"
    )
    assert plug(sm, "vbd/3/xvda", writable=False) and sm.asked() == []
    sm.layer.destroy("vbd/1/xvda", False)
    assert sm.asked() == [] and sm.layer.state("sr", "disk") == ACTIVE_RW
    sm.layer.destroy("vbd/3/xvda", False)
    sm.layer.destroy("vbd/2/xvda", False)
    assert sm.asked() == ["deactivate", "detach"] and sm.layer.state("sr", "disk") == DETACHED
    assert sm.layer.place("vbd/2/xvda") is None


def test_read_only_is_not_made_read_write_nor_back(sm):
    plug(sm, "reader", writable=False)
    with pytest.raises(Failure) as refused:
        sm.layer.attach("writer", "sr", "disk", True)
    assert refused.value.description == [
        "INTERNAL_ERROR",
        "Storage_interface.Storage_error ([S(Illegal_transition);S(activated RO)S(activated RW)])",
    ]
    sm.layer.destroy("reader", False)
    plug(sm, "writer")
    plug(sm, "reader", writable=False)
    with pytest.raises(Failure):
        sm.layer.destroy("writer", False)
    assert (
        "DP: writer: activated RW  ** LEAKED" in sm.layer.diagnostics()
        and "Illegal_transition" in sm.layer.diagnostics()
    )


def test_what_sm_did_behind_its_back_it_does_not_know(sm):
    """So a VM that starts on such a disk gets no tapdisk."""
    plug(sm, "vbd/1/xvda")
    sm.asked()
    plug(sm, "vbd/2/xvda")
    assert sm.asked() == []


def test_a_leaked_datapath_is_tried_again_before_the_next_operation(sm):
    plug(sm, "dead")
    sm.refuse = {"deactivate"}
    sm.asked()
    with pytest.raises(Failure) as refused:
        sm.layer.destroy("dead", False)
    assert (
        refused.value.code == "SR_BACKEND_FAILURE_46"
        and sm.asked() == ["deactivate"]
        and sm.layer.place("dead")
    )
    with pytest.raises(Failure):
        sm.layer.attach("new", "sr", "disk", True)
    assert sm.asked() == ["deactivate"] and "LEAKED" in sm.layer.diagnostics()
    sm.refuse = set()
    plug(sm, "new")
    assert sm.asked() == ["deactivate", "detach", "attach RW", "activate RW"]


def test_what_failed_half_way_is_done_again_as_a_whole(sm):
    plug(sm, "dead")
    sm.refuse = {"detach"}
    with pytest.raises(Failure):
        sm.layer.destroy("dead", False)
    assert sm.layer.state("sr", "disk") == ACTIVE_RW
    sm.asked()
    sm.refuse = set()
    sm.layer.destroy("dead", False)
    assert sm.asked() == ["deactivate", "detach"]


def test_allow_leak_forgets_what_could_not_be_removed(sm):
    plug(sm, "dead")
    sm.refuse = {"deactivate"}
    sm.layer.destroy("dead", True)
    assert sm.layer.state("sr", "disk") == DETACHED and sm.layer.place("dead") is None


def test_all_go_before_a_vdi_is_destroyed(sm):
    plug(sm, "one")
    plug(sm, "two")
    sm.asked()
    sm.layer.remove_all("sr", "disk")
    assert sm.asked() == ["deactivate", "detach"]


def test_a_vdi_without_a_record_is_let_go_of_without_sm(sm):
    plug(sm, "dp")
    sm.asked()
    sm.gone = True
    sm.layer.destroy("dp", False)
    assert sm.asked() == [] and sm.layer.state("sr", "disk") == DETACHED
    with pytest.raises(Failure):
        sm.layer.attach("dp", "sr", "disk", True)


def test_it_outlives_xapi_and_what_sm_was_at_does_not(sm):
    plug(sm, "dp", writable=False)
    former = sm.layer.diagnostics()
    sm.again()
    assert (
        sm.layer.diagnostics() == former
        and sm.layer.state("sr", "disk") == ACTIVE_RO
        and sm.layer.place("dp") == ("sr", "disk")
    )
    sm.layer.deactivate("dp", "sr", "disk")
    before_killed = sm.saved
    sm.layer.activate("dp", "sr", "disk")
    sm.saved = before_killed  # killed when SM had just done it, before that was written down
    sm.again()
    sm.asked()
    sm.layer.activate("dp", "sr", "disk")
    assert sm.asked() == ["activate RO"]


def test_an_sr_that_is_detached_takes_its_datapaths_along(sm):
    plug(sm, "dp")
    sm.asked()
    sm.layer.sr_detaches("sr")
    sm.layer.sr_detached("sr")
    assert sm.asked() == ["deactivate", "detach"] and sm.layer.srs() == []
    with pytest.raises(Failure) as refused:
        sm.layer.attach("dp", "sr", "disk", True)
    assert "Sr_not_attached" in refused.value.description[1]


# --- a whole xapi


@pytest.fixture(scope="module")
def pool():
    pool = LabPool(hosts=2)
    yield pool
    pool.stop()


class Disk:
    """A VDI in an SR of its own on `host`, and what xapi's storage layer there says of it."""

    def __init__(self, host):
        self.host = host
        self.log_in_again()
        self.sr = make_sr(self.x, host.ref(self.x), "/datapaths")
        self.ref = self.x.VDI.create(vdi_record(self.sr))
        self.location = self.x.VDI.get_location(self.ref)
        self.where = {"sr": self.x.SR.get_uuid(self.sr), "vdi": self.location, "rw": True}
        self.link = host.root + "/run/blktap-control/nbd/%s/%s" % (
            self.where["sr"],
            self.x.VDI.get_uuid(self.ref),
        )

    def log_in_again(self):
        self.x = self.host.pool.master.remote().xenapi

    def ask(self, method, datapath, **more):
        answer = ask_storage(self.host, method, dp=datapath, **dict(self.where, **more))
        return answer.get("ErrorDescription") or answer.get("Value")

    def plug(self, datapath):
        self.ask("VDI.attach", datapath)
        return self.ask("VDI.activate", datapath)

    def believed(self):
        """The lines of this VDI in the diagnostics."""
        lines = self.x.host.get_sm_diagnostics(self.host.ref(self.x)).splitlines()
        begin = (
            lines.index("        VDI " + self.location)
            if "        VDI " + self.location in lines
            else len(lines)
        )
        return [
            line.strip()
            for line in itertools.takewhile(
                lambda line: line.startswith(" " * 12), lines[begin + 1 :]
            )
        ]

    def destroy_datapath(self, datapath, allow_leak=False):
        return self.x.host.sm_dp_destroy(self.host.ref(self.x), datapath, allow_leak)


@pytest.mark.parametrize("number", [0, 1])
def test_the_diagnostics_and_sm_dp_destroy(pool, number):
    host = pool.hosts[number]
    disk = Disk(host)
    assert disk.plug("vbd/1/xvda") == {"socket": host.root + "/run/blktap-control/nbd1.0"}
    state, datapath = disk.believed()
    assert (
        state.startswith("activated RW (device=Some {")
        and datapath == "DP: vbd/1/xvda: activated RW"
    )
    text = disk.x.host.get_sm_diagnostics(host.ref(disk.x))
    assert text.startswith("DataPath information:\nThe following SRs are attached:\n    SR ")
    assert (
        text.endswith("No diagnostics are available for SMAPIv1 plugins")
        and "Backend information:\nFor SR: " in text
    )
    session, of = pool.master.remote(), (host.ref(disk.x), disk.where["sr"], disk.location)
    assert datapaths.of_vm_disks(session, *of) == ["vbd/1/xvda"], "as the product reads it"
    assert datapaths.is_active(session, *of, writable=True)
    assert disk.destroy_datapath("vbd/9/xvda") == "", "one that is not known is no error"
    datapaths.destroy(session, host.ref(disk.x), "vbd/1/xvda")
    assert not datapaths.is_active(session, *of, writable=True)
    assert (
        datapaths.of_vm_disks(session, *of) == []
        and disk.believed() == []
        and not os.path.lexists(disk.link)
    )
    assert len(host.driver_calls("vdi_deactivate")) == len(host.driver_calls("vdi_detach")) == 1


def test_a_disk_deactivated_behind_xapis_back_is_still_believed_active(pool):
    """As on a real host: the next one that activates it gets no tapdisk; sm_dp_destroy is the
    way."""
    disk = Disk(pool.master)
    disk.plug("vbd/1/xvda")
    os.unlink(disk.link)  # what a driver called directly does
    disk.plug("vbd/2/xvda")
    assert not os.path.lexists(disk.link) and len(disk.believed()) == 3
    disk.destroy_datapath("vbd/2/xvda")
    os.symlink("somewhere", disk.link)
    disk.destroy_datapath("vbd/1/xvda")
    assert disk.plug("vbd/3/xvda") and os.path.lexists(disk.link)
    disk.destroy_datapath("vbd/3/xvda")


def test_what_sm_refuses_leaks(pool):
    disk = Disk(pool.master)
    disk.plug("vbd/1/xvda")
    os.unlink(disk.link)  # the driver of these tests fails then
    assert failure_of(disk.destroy_datapath, "vbd/1/xvda")[0] == "SR_BACKEND_FAILURE"
    assert disk.believed()[1] == "DP: vbd/1/xvda: activated RW  ** LEAKED"
    assert disk.ask("VDI.attach", "vbd/2/xvda")[0] == "SR_BACKEND_FAILURE"
    disk.destroy_datapath("vbd/1/xvda", True)
    assert disk.believed() == []


def test_a_vdi_is_not_destroyed_under_a_datapath_that_does_not_go(pool):
    disk = Disk(pool.master)
    disk.plug("vbd/1/xvda")
    os.unlink(disk.link)
    assert failure_of(disk.x.VDI.destroy, disk.ref)[0] == "SR_BACKEND_FAILURE"
    os.symlink("somewhere", disk.link)
    disk.x.VDI.destroy(disk.ref)
    assert not os.path.lexists(disk.link) and disk.believed() == []


def test_the_marks_of_a_host_are_made_anew_when_its_xapi_starts(pool):
    """From what the host remembers, whatever the database says: it may be older."""
    disk, other = Disk(pool.master), Disk(pool.master)
    disk.plug("vbd/1/xvda")
    own, member = "host_" + pool.master.ref(disk.x), "host_" + pool.hosts[1].ref(disk.x)
    disk.x.VDI.set_sm_config(other.ref, {own: "RW", "paused": "true", "relinking": "true"})
    disk.x.pool.sync_database()
    x = restarted(pool.master)
    assert x.VDI.get_sm_config(disk.ref) == {own: "RW"}
    assert x.VDI.get_sm_config(other.ref) == {"paused": "true", "relinking": "true"}
    x.VDI.set_sm_config(disk.ref, {own: "RW", member: "RW"})
    x.VDI.set_sm_config(other.ref, {"host_OpaqueRef:nobody": "RW", "activating": "true"})
    x.pool.sync_database()
    x = restarted(pool.master)
    assert x.VDI.get_sm_config(disk.ref) == {own: "RW", member: "RW"} and x.VDI.get_sm_config(
        other.ref
    ) == {"activating": "true"}
    disk.log_in_again()
    disk.destroy_datapath("vbd/1/xvda")


def test_a_loss_of_power_takes_the_datapaths_and_the_marks(pool):
    disk = Disk(pool.master)
    disk.plug("vbd/1/xvda")
    own = "host_" + pool.master.ref(disk.x)
    disk.x.VDI.set_sm_config(disk.ref, {own: "RW", "paused": "true"})
    disk.x.pool.sync_database()
    pool.master.stop(signal.SIGKILL)
    subprocess.run(["rm", "-rf", pool.master.root + "/run"], check=True)
    pool.master.start()
    pool.master.wait_ready()
    disk.log_in_again()
    assert disk.believed() == [] and disk.x.VDI.get_sm_config(disk.ref) == {"paused": "true"}
    (pbd,) = disk.x.SR.get_PBDs(disk.sr)
    assert disk.x.PBD.get_currently_attached(pbd), "it was plugged again"
    with open(pool.master.root + STATE) as file:
        assert disk.where["sr"] in json.load(file)["host"]["srs"]


def test_a_pbd_is_plugged_if_the_host_has_its_sr_attached(pool):
    disk = Disk(pool.master)
    (pbd,) = disk.x.SR.get_PBDs(disk.sr)
    disk.x.pool.sync_database()
    disk.x.PBD.unplug(pbd)
    before = len(pool.master.driver_calls("sr_attach"))
    x = restarted(pool.master)  # the database says that it is plugged, and it is not
    assert (
        x.PBD.get_currently_attached(pbd)
        and len(pool.master.driver_calls("sr_attach")) == before + 1
    )


class Activation(threading.Thread):
    """One that xenopsd has asked for: repeated until a xapi answers. `answer`: what it answered."""

    def __init__(self, disk):
        super().__init__(daemon=True)
        self._disk = disk
        self.answer = None
        self.start()

    def run(self):
        self.answer = eventually(self._ask, "a xapi answers", REPEATED, poll=0.1)

    def _ask(self):
        try:
            return self._disk.ask("VDI.activate", "vbd/1/xvda")
        except (
            OSError,
            http.client.HTTPException,
            xmlrpc.client.Error,
            xml.parsers.expat.ExpatError,
        ):
            return None


def serves(host):
    """Whether its xapi is there for anybody but its own dom0."""
    with socket.socket() as probe:
        return probe.connect_ex((host.address, host.https_port)) == 0


def activations(host):
    """Whether SM was to write, in each of the activations on a host, oldest first."""
    return [call["args"] == ["true"] for call in host.driver_calls("vdi_activate")]


@contextlib.contextmanager
def killed_in_an_activation(disk):
    """The host's xapi is killed while SM activates the disk, to be written to, and started again;
    yields the Activation, whose gate is shut until then. How often SM is to activate it is not
    waited for."""
    host = disk.host
    disk.ask("VDI.attach", "vbd/1/xvda")
    disk.x.pool.sync_database()
    gate = host.root + "/gate-is-shut"
    open(gate, "w").close()
    begun = len(activations(host))
    try:
        activation = Activation(disk)
        eventually(lambda: activations(host)[begun:] == [True], "SM is asked")
        host.stop(signal.SIGKILL)
        host.start()
        eventually(lambda: len(activations(host)) == begun + 2, "SM is asked again")
        yield activation
    finally:
        os.unlink(gate)
    host.wait_ready()
    activation.join(PATIENCE)
    assert activation.answer == {"socket": host.root + "/run/blktap-control/nbd1.0"}
    disk.log_in_again()


@pytest.mark.parametrize("member", [False, True], ids=["master", "member"])
def test_what_sm_was_activating_for_a_xapi_that_was_killed_it_activates_again_to_read(pool, member):
    """The next xapi does not know yet that it is to be written to, and xenopsd, which asks again
    behind that, is told that it is active as it wanted (seen on a real xapi): the VM runs, and
    cannot write."""
    disk = Disk(pool.hosts[member])
    with killed_in_an_activation(disk):
        pass
    assert activations(disk.host)[-2:] == [True, False]
    assert disk.believed()[1] == "DP: vbd/1/xvda: activated RW"
    assert disk.x.VDI.get_sm_config(disk.ref)["host_" + disk.host.ref(disk.x)] == "RW", (
        "the driver of these tests makes no mark"
    )
    disk.destroy_datapath("vbd/1/xvda")


@pytest.mark.parametrize("member", [False, True], ids=["master", "member"])
def test_if_that_fails_xenopsd_has_it_activated_to_be_written_to(pool, member):
    disk = Disk(pool.hosts[member])
    with killed_in_an_activation(disk):
        (reader,) = [
            pid
            for pid, command in daemons.of_root(disk.host.root).items()
            if "vdi_activate" in command and ">false<" in command
        ]
        os.kill(reader, signal.SIGKILL)
    assert activations(disk.host)[-3:] == [True, False, True]
    assert disk.believed()[1] == "DP: vbd/1/xvda: activated RW"
    disk.destroy_datapath("vbd/1/xvda")


def test_an_activation_on_a_member_ends_with_its_master(pool):
    """SM's command has its session from the master; nobody does over again what it was at, for the
    member's own xapi has not ended."""
    disk = Disk(pool.hosts[1])
    disk.ask("VDI.attach", "vbd/1/xvda")
    disk.x.pool.sync_database()
    gate = disk.host.root + "/gate-is-shut"
    open(gate, "w").close()
    begun = len(activations(disk.host))
    activation = Activation(disk)
    try:
        eventually(lambda: activations(disk.host)[begun:] == [True], "SM is asked")
        pool.master.stop(signal.SIGKILL)
        activation.join(PATIENCE)
        assert activation.answer[0] == "INTERNAL_ERROR" and "session" in activation.answer[1]
        eventually(
            lambda: (
                not [
                    command
                    for command in daemons.of_root(disk.host.root).values()
                    if "vdi_activate" in command
                ]
            ),
            "the activation has ended",
        )
    finally:
        os.unlink(gate)
        pool.master.start()
        pool.master.wait_ready()
    disk.log_in_again()
    assert (
        activations(disk.host)[begun:] == [True]
        and disk.believed()[1] == "DP: vbd/1/xvda: attached  RW"
    )
    disk.destroy_datapath("vbd/1/xvda")


@pytest.mark.parametrize("member", [False, True], ids=["master", "member"])
def test_an_activation_that_waits_for_its_gate_holds_the_start_of_its_xapi_up(pool, member):
    """Over its unix socket a master's answers all that time, and over the network not at all (seen
    on a real one); a member's is served there before."""
    disk = Disk(pool.hosts[member])
    with killed_in_an_activation(disk) as activation:
        assert disk.host.local().xenapi.SR.get_by_uuid(disk.where["sr"]) == disk.sr
        eventually(lambda: serves(disk.host) is member, "who is served over the network")
        never(
            lambda: (
                serves(disk.host) is not member
                or os.path.exists(disk.host.root + "/run/xapi.ready")
                or not activation.is_alive()
            ),
            "it does not wait",
            NEGATIVE,
            poll=0.1,
        )
    assert serves(disk.host)
    disk.destroy_datapath("vbd/1/xvda")
