# SPDX-License-Identifier: LGPL-2.1-only
"""The ports between hosts that `sxm doctor` tries: what listens for a moment, and what connects."""

import contextlib
import errno
import json
import os
import select
import socket
import threading
import time

import pytest

from fake_pool import by_name, make_pool, uuid_of
from storage_motion.api import functions, ports
from storage_motion.errors import BadArguments, FirewallFailed

WORD = "0123456789abcdef" * 2
HERE = "127.0.0.1"


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(ports, "RANGE", str(tmp_path / "range"))
    found = make_pool("A", ["a1"])
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/xensource-inventory").write_text(
        "INSTALLATION_UUID='%s'\n" % uuid_of(found, "host", by_name(found, "host", "a1"))
    )
    return found


@pytest.fixture
def firewall(monkeypatch):
    """[(what was done, port)]; the ports that are open."""
    done = []
    monkeypatch.setattr(ports.firewall, "open_port", lambda port: done.append(("open", port)))
    monkeypatch.setattr(ports.firewall, "close_port", lambda port: done.append(("close", port)))
    return done


def free():
    with contextlib.closing(socket.socket()) as sock:
        sock.bind((HERE, 0))
        return sock.getsockname()[1]


def listen(pool, port, expect=1, word=WORD):
    return functions.call(
        "doctor-listen", pool, {"port": str(port), "expect": str(expect), "word": word}
    )


def reach(pool, *targets):
    given = {"targets": json.dumps(targets), "word": WORD}
    return functions.call("doctor-reach", pool, given)["found"]


def noted():
    return os.path.join(os.environ["SXM_ROOT"], "var/lib/sxm", ports.NOTE)


def test_one_listens_and_others_reach_it(pool, firewall):
    port, answers = free(), []
    thread = threading.Thread(target=lambda: answers.append(listen(pool, port, expect=2)))
    thread.start()
    assert reach(pool, [HERE, port], [HERE, port]) == [ports.OPEN, ports.OPEN]
    thread.join(30)
    assert answers[0]["listened"] is True and answers[0]["heard"] == 2
    assert firewall == [("open", port), ("close", port)]
    with open(noted()) as note:
        assert note.read().strip() == ""


def test_it_ends_by_itself(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 0.1)
    assert listen(pool, free())["heard"] == 0
    assert [what for what, _ in firewall] == ["open", "close"]


def test_who_does_not_know_the_word_is_told_nothing(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 1.0)
    port, answers = free(), []
    thread = threading.Thread(
        target=lambda: answers.append(listen(pool, port, word="f" * 32)), daemon=True
    )
    thread.start()
    monkeypatch.setattr(ports, "TRY", 5.0)
    assert reach(pool, [HERE, port]) == [ports.OTHER]
    thread.join(30)
    assert answers[0]["heard"] == 0


def test_a_port_of_somebody_else_is_not_touched(pool, firewall):
    with contextlib.closing(socket.socket()) as other:
        other.bind((HERE, 0))
        other.listen(1)
        assert listen(pool, other.getsockname()[1])["listened"] is False
    assert firewall == []


def test_two_do_not_listen_at_once(pool, firewall):
    with ports._alone() as note:
        assert note is not None
        assert listen(pool, free())["listened"] is False
    assert firewall == []


def test_what_one_that_was_killed_left_open_is_closed(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 0.05)
    left, port = free(), free()
    with ports._alone() as note:
        ports._write(note, [left])
    listen(pool, port)
    assert firewall == [("close", left), ("open", port), ("close", port)]


def test_unless_a_receiver_has_the_port_by_now(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 0.05)
    port = free()
    with contextlib.closing(socket.socket()) as receiver:
        receiver.bind((HERE, 0))
        receiver.listen(1)
        taken = receiver.getsockname()[1]
        with ports._alone() as note:
            ports._write(note, [taken])
        listen(pool, port)
    assert firewall == [("open", port), ("close", port)]
    with open(noted()) as note:
        assert note.read().strip() == str(taken)
    listen(pool, port)
    assert firewall[2] == ("close", taken), "it may have been no receiver's"


def on_ipv6():
    """A receiver's socket on an IPv6 address alone."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::1", 0))
    sock.listen(1)
    return sock


def test_a_receiver_on_ipv6_keeps_its_port_open(pool, firewall, monkeypatch):
    """The firewall has one rule for both families."""
    monkeypatch.setattr(ports, "LISTEN", 0.05)
    port = free()
    with contextlib.closing(on_ipv6()) as receiver:
        taken = receiver.getsockname()[1]
        with ports._alone() as note:
            ports._write(note, [taken])
        listen(pool, port)
        assert listen(pool, taken)["listened"] is False
    assert firewall == [("open", port), ("close", port)]
    with open(noted()) as note:
        assert note.read().strip() == str(taken)


def test_a_host_without_ipv6(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 0.05)
    left, port, make = free(), free(), socket.socket

    def of_kernel(family, kind):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, kind)

    monkeypatch.setattr(ports.socket, "socket", of_kernel)
    with ports._alone() as note:
        ports._write(note, [left])
    assert listen(pool, port)["listened"] is True
    assert firewall == [("close", left), ("open", port), ("close", port)]


def test_a_firewall_that_does_not_close_is_told_and_stays_noted(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 0.05)

    def fail(port):
        raise FirewallFailed("firewall-port", "busy")

    monkeypatch.setattr(ports.firewall, "close_port", fail)
    port = free()
    with pytest.raises(FirewallFailed):
        listen(pool, port)
    with open(noted()) as note:
        assert note.read().strip() == str(port)


def test_a_byte_now_and_then_does_not_hold_the_port_open(pool, firewall, monkeypatch):
    monkeypatch.setattr(ports, "LISTEN", 2.0)
    monkeypatch.setattr(ports, "CONNECT", 0.5)
    port, answers = free(), []
    thread = threading.Thread(target=lambda: answers.append(listen(pool, port)))
    thread.start()
    with contextlib.suppress(OSError):
        deadline = time.monotonic() + 10
        while thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError):
                with contextlib.closing(socket.create_connection((HERE, port), 5)) as slow:
                    for _ in range(30):
                        slow.sendall(WORD[:1].encode())
                        if select.select([slow], [], [], 0.2)[0]:
                            break  # it has hung up
    thread.join(30)
    assert answers[0]["heard"] == 0 and time.monotonic() < deadline


def test_rejected_ones_keep_nobody_from_the_others(pool, monkeypatch):
    """All have one time, and none waits for another's."""
    begun = []

    def connect(target, timeout):
        begun.append((target[1], time.monotonic()))
        raise OSError(113, "No route to host")

    monkeypatch.setattr(ports, "TRY", 0.5)
    monkeypatch.setattr(ports.socket, "create_connection", connect)
    first = time.monotonic()
    found = reach(pool, *([HERE, 40000 + one] for one in range(40)))
    assert found == [ports.UNREACHABLE] * 40
    firsts = {}
    for port, at in begun:
        firsts.setdefault(port, at)
    assert len(firsts) == 40 and max(firsts.values()) - first < 0.5


def test_nobody_listens(pool, monkeypatch):
    monkeypatch.setattr(ports, "TRY", 0.1)
    assert reach(pool, [HERE, free()]) == [ports.REFUSED]


@pytest.mark.parametrize(
    "error, found",
    [
        (socket.timeout(), ports.SILENT),
        (OSError(113, "No route to host"), ports.UNREACHABLE),
        (ConnectionResetError(104, "reset"), ports.OTHER),
        (ConnectionRefusedError(111, "refused"), ports.REFUSED),
    ],
)
def test_what_a_connection_fails_with(pool, monkeypatch, error, found):
    def fail(target, timeout):
        raise error

    monkeypatch.setattr(ports, "TRY", 0.0)
    monkeypatch.setattr(ports.socket, "create_connection", fail)
    assert reach(pool, ["10.0.0.2", 40000], ["10.0.0.2", 443]) == [found, found]


@pytest.mark.parametrize(
    "targets, told",
    [
        ("x", "targets: is not a JSON list of [address, port]"),
        ('[["p1.example", 443]]', "targets: p1.example port 443 is none that a migration uses"),
        ('[["10.0.0.1", 22]]', "targets: 10.0.0.1 port 22 is none that a migration uses"),
        (json.dumps([["10.0.0.1", 443]] * 257), "targets: are more than 256"),
    ],
)
def test_only_what_a_migration_uses_is_tried(pool, monkeypatch, targets, told):
    monkeypatch.setattr(ports.socket, "create_connection", lambda *_: pytest.fail("it tried"))
    with pytest.raises(BadArguments) as raised:
        functions.call("doctor-reach", pool, {"targets": targets, "word": WORD})
    assert raised.value.details == [told]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"port": "22"}, "port: '22' is not a number from 1024 to 65535"),
        ({"port": "x"}, "port: 'x' is not a number from 1024 to 65535"),
        ({"expect": "0"}, "expect: '0' is not a number from 1 to 10000"),
        ({"word": "short"}, "word: is not 32 hexadecimal digits"),
    ],
)
def test_listening_is_for_the_ports_of_receivers_alone(pool, firewall, changes, told):
    given = dict({"port": "40000", "expect": "1", "word": WORD}, **changes)
    with pytest.raises(BadArguments) as raised:
        functions.call("doctor-listen", pool, given)
    assert raised.value.details == [told] and firewall == []


def test_the_range_is_the_kernels(pool):
    assert ports.of_receivers() == ports.UNUSUAL
    with open(ports.RANGE, "w") as out:
        out.write("32768\t60999\n")
    assert ports.of_receivers() == (32768, 60999)
