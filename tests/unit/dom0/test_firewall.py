# SPDX-License-Identifier: LGPL-2.1-only
"""The firewall is told of a port by whichever program this host has, and again when it is busy."""

import os

import pytest

from storage_motion.dom0 import firewall
from storage_motion.errors import FirewallFailed

PORT = 40123


class Dom0:
    """A host's root with programs that write down how they were called."""

    def __init__(self, directory):
        self.root, self.log = directory, directory / "calls"

    def has(self, program, script=""):
        path = self.root / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#!/bin/sh\necho "$*" >>%s\n%s\n' % (self.log, script))
        os.chmod(str(path), 0o755)

    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def dom0(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(firewall, "WAIT", 0.01)
    return Dom0(tmp_path)


def test_iptables_by_xapis_script(dom0):
    dom0.has(firewall.IPTABLES)
    firewall.open_port(PORT)
    firewall.close_port(PORT)
    assert dom0.calls() == ["open 40123 tcp", "close 40123 tcp"]


def test_firewalld_where_it_runs(dom0):
    dom0.has(firewall.IPTABLES)
    dom0.has(firewall.FIREWALLD)
    firewall.open_port(PORT)
    firewall.close_port(PORT)
    assert dom0.calls() == ["--state", "--add-port=40123/tcp", "--state", "--remove-port=40123/tcp"]


def test_firewalld_that_does_not_run_is_not_asked(dom0):
    dom0.has(firewall.IPTABLES)
    dom0.has(firewall.FIREWALLD, "exit 252")
    firewall.open_port(PORT)
    assert dom0.calls() == ["--state", "open 40123 tcp"]


def test_no_firewall(dom0):
    firewall.open_port(PORT)
    firewall.close_port(PORT)
    assert dom0.calls() == []


def test_somebody_else_holds_the_rules_for_a_moment(dom0):
    dom0.has(firewall.IPTABLES, "[ $(wc -l <%s) -ge 3 ] || exit 4" % dom0.log)
    firewall.open_port(PORT)
    assert dom0.calls() == ["open 40123 tcp"] * 3


def test_a_failure_names_the_command_and_the_reason(dom0):
    dom0.has(firewall.IPTABLES, "echo iptables is not here; exit 3")
    with pytest.raises(FirewallFailed) as raised:
        firewall.open_port(PORT)
    assert raised.value.failure() == [
        "SXM_FIREWALL",
        "/etc/xapi.d/plugins/firewall-port open 40123 tcp",
        "iptables is not here",
    ]
    assert len(dom0.calls()) == firewall.TRIES


def test_one_that_hangs(dom0, monkeypatch):
    monkeypatch.setattr(firewall, "TIMEOUT", 0.2)
    monkeypatch.setattr(firewall, "TRIES", 1)
    dom0.has(firewall.IPTABLES, "exec sleep 30")
    with pytest.raises(FirewallFailed, match="did not end within 0.2 s"):
        firewall.close_port(PORT)
