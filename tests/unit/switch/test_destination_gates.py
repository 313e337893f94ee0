# SPDX-License-Identifier: LGPL-2.1-only
"""Opening gates over a xapi that may be restarted, and holding them open."""

import mock
import pytest

from storage_motion.errors import SmFault, Unreachable
from storage_motion.sm import marks
from storage_motion.switch import destination_gates

SHUT = {marks.PAUSED: marks.SHUT, marks.RELINKING: marks.SHUT}
GONE = SmFault("vdi_receive_finish", 1200, "[Errno 111] Connection refused")


class Host(object):
    """A xapi that is restarted when SM's driver is at one of the calls `restarts`, and its VDI's
    sm_config; `calls`: the driver's."""

    def __init__(self, monkeypatch, restarts=()):
        self.restarts = restarts
        self.sessions = self.ended = 0
        self.calls = []
        self.sm_config = {}
        self.away = self.noted = False  # `noted`: as opened, by gate_notes
        monkeypatch.setattr(destination_gates.gate_notes, "noted", lambda vdi: self.noted)
        monkeypatch.setattr(destination_gates.sessions, "local", self.log_in)
        monkeypatch.setattr(destination_gates.sessions, "logout", self.log_out)
        monkeypatch.setattr(destination_gates.smapi, "call", self.call)

    def log_in(self, *_, **__):
        if self.away:
            raise Unreachable("/var/lib/xcp/xapi", "Connection refused")
        self.sessions += 1
        return Session(self)

    def log_out(self, _):
        self.ended += 1

    def call(self, session, sr, command, vdi, how):
        assert (sr, vdi) == ("SR of sr", "VDI of vdi")
        self.how = how
        self.calls.append(command)
        if len(self.calls) in self.restarts:
            self.sm_config = dict(SHUT)  # as it was on disk
            session.ended = True
            raise GONE
        self.sm_config = {}
        return "opened" if command == "vdi_receive_open_again" else None


class Session(object):
    """It is another one after the first call to a xapi that was restarted: what XenAPI.Session
    does."""

    def __init__(self, host):
        self._session, self._host, self.ended = "first", host, False
        self.xenapi = self.SR = self.VDI = self.pool = self

    def get_by_uuid(self, uuid):
        return {"sr": "SR of sr", "vdi": "VDI of vdi"}[uuid]

    def get_sm_config(self, vdi):
        assert vdi == "VDI of vdi"
        return self._host.sm_config

    def get_all(self):
        if self.ended:
            self._session = "second"
        return ["the pool"]


def test_a_gate_is_opened_once_more_where_xapi_was_restarted_meanwhile(monkeypatch):
    host = Host(monkeypatch, restarts=(1, 2))
    destination_gates.Gates().open("sr", "vdi")
    assert host.calls == ["vdi_receive_finish"] * 3 and host.sm_config == {}
    assert host.sessions == host.ended == 3


class StandsBy(object):
    """In place of standby.Standby; `said`: what all of them were told. `fails`: the word that they
    do not hear any more."""

    said, fails = [], None

    def __init__(self, session, sr, command, vdi, args):
        assert (sr, vdi, args) == ("SR of sr", "VDI of vdi", ["when-told"])
        self.said.append("begin " + command)

    def close_disk(self):
        self._hear("close")

    def open(self):
        self._hear("open")

    def end(self):
        self.said.append("end")

    def _hear(self, word):
        self.said.append(word)
        if word == self.fails:
            raise SmFault("vdi_receive_finish", None, "it has ended")


@pytest.fixture
def standing_by(monkeypatch):
    monkeypatch.setattr(StandsBy, "said", [])
    monkeypatch.setattr(destination_gates, "Standby", StandsBy)
    return StandsBy


BEGIN = "begin vdi_receive_finish"


def test_what_stands_by_opens_the_gate(monkeypatch, standing_by):
    host, gates = Host(monkeypatch), destination_gates.Gates()
    gates.stand_by("sr", "vdi")
    gates.close_disk("vdi")
    gates.open("sr", "vdi")
    gates.stand_down("vdi")
    assert standing_by.said == [BEGIN, "close", "open"] and host.calls == []
    assert (host.sessions, host.ended) == (1, 0)  # nobody waits for the end of a session
    gates.close()
    assert host.ended == 1


def test_its_session_ends_when_the_vm_has_the_disk(monkeypatch, standing_by):
    """Not before, since the guest is suspended; and not as late as the receiver, which may be
    killed."""
    host, gates = Host(monkeypatch), destination_gates.Gates()
    gates.stand_by("sr", "vdi")
    gates.open("sr", "vdi")
    gates.hold_open("sr", "vdi")
    assert (host.sessions, host.ended) == (2, 0)  # one of them is that of the looks
    host.sm_config = {marks.HOST + "OpaqueRef:1": "RW"}
    gates.hold_open("sr", "vdi")
    gates.hold_open("sr", "vdi")
    assert host.ended == 1
    gates.close()
    assert host.sessions == host.ended == 2


@pytest.mark.parametrize("fails", ["close", "open"])
def test_where_it_does_not_a_command_that_begins_now_does(monkeypatch, standing_by, fails):
    monkeypatch.setattr(standing_by, "fails", fails)
    host, gates = Host(monkeypatch), destination_gates.Gates()
    gates.stand_by("sr", "vdi")
    gates.close_disk("vdi")
    monkeypatch.setattr(standing_by, "fails", "open")
    gates.open("sr", "vdi")
    assert standing_by.said == [BEGIN, "close", "open"] and host.calls == ["vdi_receive_finish"]
    gates.close()
    assert host.sessions == host.ended == 2


def test_nothing_stands_by_for_a_gate_that_nobody_will_open(monkeypatch, standing_by):
    host, gates = Host(monkeypatch), destination_gates.Gates()
    gates.close_disk("vdi")
    gates.stand_down("vdi")
    assert standing_by.said == []
    gates.stand_by("sr", "vdi")
    gates.stand_by("sr", "vdi")
    gates.stand_down("vdi")
    gates.close_disk("vdi")
    gates.stand_by("sr", "vdi")
    gates.close()
    assert standing_by.said == [BEGIN, "end"] * 3
    assert host.sessions == host.ended == 3


def test_a_xapi_that_refuses_costs_no_session(monkeypatch, standing_by):
    def refuse(*_):
        raise SmFault("vdi_receive_finish", None, "this host has no PBD")

    monkeypatch.setattr(destination_gates, "Standby", refuse)
    host, gates = Host(monkeypatch), destination_gates.Gates()
    with pytest.raises(SmFault):
        gates.stand_by("sr", "vdi")
    assert host.sessions == host.ended == 1
    gates.open("sr", "vdi")
    assert host.calls == ["vdi_receive_finish"]


def test_what_sm_refuses_is_not_asked_for_again(monkeypatch):
    host = Host(monkeypatch)
    refused = SmFault("vdi_receive_finish", 484, "SXM_DISK_PAUSED")

    def call(*_):
        host.calls.append("once")
        raise refused

    monkeypatch.setattr(destination_gates.smapi, "call", call)
    with pytest.raises(SmFault):
        destination_gates.Gates().open("sr", "vdi")
    assert host.calls == ["once"] and host.ended == 1


def test_a_xapi_that_is_restarted_again_and_again_is_given_up(monkeypatch):
    host = Host(monkeypatch, restarts=range(1, 100))
    monkeypatch.setattr(destination_gates, "PATIENCE", -1.0)
    with pytest.raises(SmFault):
        destination_gates.Gates().open("sr", "vdi")
    assert len(host.calls) == 1


def test_only_a_gate_that_is_shut_is_opened_again(monkeypatch):
    host, one = Host(monkeypatch), destination_gates.Gates()
    one.hold_open("sr", "vdi")
    assert host.calls == []
    for key in SHUT:
        host.sm_config = {key: marks.SHUT}
        one.hold_open("sr", "vdi")
        one.hold_open("sr", "vdi")
    host.sm_config = {marks.PAUSED: "true"}  # SM's own
    one.hold_open("sr", "vdi")
    assert host.calls == ["vdi_receive_open_again"] * 2
    one.close()
    assert host.sessions == host.ended == 1


def test_a_xapi_that_is_away_is_not_waited_for(monkeypatch):
    host, one = Host(monkeypatch), destination_gates.Gates()
    host.away, host.sm_config = True, dict(SHUT)
    with pytest.raises(Unreachable):
        one.hold_open("sr", "vdi")
    host.away = False
    one.hold_open("sr", "vdi")
    assert host.calls == ["vdi_receive_open_again"]


ACTIVATING = {"activating": "True"}


def test_an_activation_that_stays_under_way_has_died(monkeypatch):
    host, one = Host(monkeypatch), destination_gates.Gates()
    monkeypatch.setattr(
        destination_gates.smapi,
        "call",
        lambda session, sr, command, vdi, how: host.calls.append(command),
    )
    for config, calls in ((ACTIVATING, 0), ({}, 0), (ACTIVATING, 0), (ACTIVATING, 1), ({}, 1)):
        host.sm_config = config
        one.hold_open("sr", "vdi")
        assert host.calls == ["vdi_receive_open_again"] * calls


def test_one_that_takes_its_time_has_not(monkeypatch):
    """SM is at sixteen disks on a busy host: a command for each that took longer than a second
    would be in its way."""
    host, one = Host(monkeypatch), destination_gates.Gates()
    commands = [("vdi", None, "vdi_activate", ["true"])]
    monkeypatch.setattr(destination_gates.smapi, "commands", lambda vdis: commands)
    host.sm_config = ACTIVATING
    for _ in range(3):
        one.hold_open("sr", "vdi")
    assert host.calls == []
    commands[0] = ("vdi", None, "vdi_detach", [])
    one.hold_open("sr", "vdi")
    assert host.calls == ["vdi_receive_open_again"]


def test_one_whose_xapi_was_away_has_died_at_once(monkeypatch):
    """Whoever is there by now: SM's next command fails by the mark."""
    host, one = Host(monkeypatch), destination_gates.Gates()
    monkeypatch.setattr(
        destination_gates.smapi, "commands", lambda vdis: [("vdi", None, "vdi_activate", ["true"])]
    )
    host.sm_config = ACTIVATING
    host.away = True
    with pytest.raises(Unreachable):
        one.hold_open("sr", "vdi")
    host.away = False
    one.hold_open("sr", "vdi")
    assert host.calls == ["vdi_receive_open_again"]


def test_commands_that_would_only_read_are_kept_out_until_no_disk_is_guarded(monkeypatch):
    """Without a session: no xapi can be asked when it matters."""
    host, one = Host(monkeypatch), destination_gates.Gates()
    guard = mock.Mock()
    monkeypatch.setattr(one, "_guard", guard)
    host.away = True
    one.keep_writable({"vdi": "sr"})
    assert one.keeps_out() is guard.holds() and one.is_waited_for() is guard.is_waited_for()
    guard.reset_mock()
    one.keep_writable({"vdi": "sr"})
    one.end_guard()
    assert guard.mock_calls == [mock.call.look({"vdi": "sr"}), mock.call.close()]
    assert host.sessions == 0


def test_they_are_kept_out_while_a_gate_is_opened_once_more(monkeypatch):
    """A xapi that was restarted has SM activate the disk to be read just then."""
    host, one = Host(monkeypatch, restarts=(1,)), destination_gates.Gates()
    guard, seen = mock.Mock(), []
    monkeypatch.setattr(one, "_guard", guard)

    def call(*args):
        one.keep_writable({"other": "sr"})
        seen.append(guard.look.call_args[0][0])
        return Host.call(host, *args)

    monkeypatch.setattr(destination_gates.smapi, "call", call)
    one.open("sr", "vdi")
    one.keep_writable({"vdi": "sr"})
    assert seen == [{"other": "sr"}, {"other": "sr", "vdi": "sr"}]
    assert guard.look.call_args[0][0] == {"vdi": "sr"}


@pytest.mark.parametrize("fails, kept", [(None, {}), ("open", {"vdi": "sr"})])
def test_they_are_kept_out_where_what_stood_by_has_failed(monkeypatch, standing_by, fails, kept):
    monkeypatch.setattr(standing_by, "fails", fails)
    Host(monkeypatch)
    one, guard = destination_gates.Gates(), mock.Mock()
    monkeypatch.setattr(one, "_guard", guard)
    one.stand_by("sr", "vdi")
    one.open("sr", "vdi")
    one.keep_writable({})
    assert guard.look.call_args[0][0] == kept


@pytest.mark.parametrize("noted, kept", [(False, {}), (True, {"vdi": "sr"})])
def test_of_a_gate_that_could_not_be_opened_they_are_only_if_it_may_be_open(
    monkeypatch, noted, kept
):
    host, one = Host(monkeypatch, restarts=(1,)), destination_gates.Gates()
    guard, refused = mock.Mock(), SmFault("vdi_receive_finish", 484, "SXM_DISK_PAUSED")
    monkeypatch.setattr(one, "_guard", guard)

    def call(*args):
        if host.calls:
            raise refused
        return Host.call(host, *args)

    monkeypatch.setattr(destination_gates.smapi, "call", call)
    host.noted = noted
    with pytest.raises(SmFault):
        one.open("sr", "vdi")
    one.keep_writable({})
    assert guard.look.call_args[0][0] == kept


def test_who_has_its_disk_read_only_is_let_in(monkeypatch, standing_by):
    host, one = Host(monkeypatch), destination_gates.Gates()
    guard = mock.Mock()
    monkeypatch.setattr(one, "_guard", guard)
    one.expect_reader("vdi")
    one.open("sr", "vdi")
    assert host.how == ["read-only"]
    host.sm_config = dict(SHUT)
    one.hold_open("sr", "vdi")
    assert host.how == ["read-only"] and host.calls[-1] == "vdi_receive_open_again"
    one.keep_writable({"vdi": "sr", "other": "sr"})
    assert guard.look.call_args[0][0] == {"other": "sr"}


def test_one_that_has_held_no_gate_open_has_no_session_to_end(monkeypatch):
    host = Host(monkeypatch)
    destination_gates.Gates().close()
    assert host.sessions == host.ended == 0
