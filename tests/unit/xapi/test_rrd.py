# SPDX-License-Identifier: LGPL-2.1-only
"""Whether an RRD has all of another one, and how this host's rrdd is asked."""

import contextlib
import http.server
import os
import shutil
import socketserver
import tempfile
import threading
import types
import xmlrpc.client

import pytest

from storage_motion.errors import Unreachable
from storage_motion.xapi import rrd

NOW = 1000000
STEP = 5
ROWS = {1: 12, 12: 6}  # by steps


def make(updated, value, names=("cpu0", "memory"), rows=None):
    """An RRD of which `value(time, name)` tells what is known at the end of a row."""
    text = "<rrd><version>0003</version><step>%d</step><lastupdate>%d</lastupdate>" % (
        STEP,
        updated,
    )
    text += "".join("<ds><name>%s</name><type>GAUGE</type></ds>" % name for name in names)
    for steps, count in (rows or ROWS).items():
        interval = STEP * steps
        last = updated // interval
        text += "<rra><cf>AVERAGE</cf><pdp_per_row>%d</pdp_per_row><database>" % steps
        for row in range(last - count + 1, last + 1):
            values = "".join("<v>%s</v>" % value(row * interval, name) for name in names)
            text += "<row>%s</row>" % values
        text += "</database></rra>"
    return ('<?xml version="1.0"?>\n%s</rrd>' % text).encode()


def known(time, name):
    return "%.4f" % (time + len(name)) if time <= NOW else "NaN"


def fresh(time, name):
    return "NaN" if time <= NOW else "1.0"


OURS = make(NOW, known)


@pytest.mark.parametrize("later", [0, 1, 4, 5, 30, 59, 60, 61, 600, 10**6])
def test_what_has_grown_since_is_still_it(later):
    assert rrd.holds(make(NOW + later, known), OURS)


def test_what_rrdd_answers_is_sent_as_rrdd_reads_it(monkeypatch):
    sent = []
    monkeypatch.setattr(rrd.unanswered, "query", lambda session, path, fields: path)
    monkeypatch.setattr(rrd.unanswered, "put", lambda url, path, body, closes: sent.append(body))
    answered = b"<lastupdate>7</lastupdate><ds><unknown_sec>0</unknown_sec></ds>"
    told = answered.replace(b"</ds>", b"<last_updated>7</last_updated></ds>")
    for document in (answered, told):
        rrd.send("https://there", None, "vm", document, archive=False)
    assert sent == [told, told]


@pytest.mark.parametrize("later", [0, 4, 59])
def test_a_history_that_begins_anew_is_not(later):
    assert not rrd.holds(make(NOW + later, fresh), OURS)


def test_a_clock_that_is_behind_costs_nothing():
    back = OURS.replace(b"<lastupdate>1000000<", b"<lastupdate>999000<")
    assert rrd.holds(back, OURS)


def test_one_value_that_is_another_is_enough():
    there = make(NOW, lambda time, name: known(time - (time == NOW - 25), name))
    assert there != OURS and not rrd.holds(there, OURS)


def test_what_is_not_known_may_be_known():
    ours = make(NOW, lambda time, name: "NaN" if time < NOW - 60 else known(time, name))
    assert rrd.holds(OURS, ours) and not rrd.holds(ours, OURS)


def test_a_further_source_does_no_harm_and_one_less_does():
    more = make(NOW, known, ("new", "cpu0", "memory"))
    assert rrd.holds(more, OURS) and not rrd.holds(OURS, more)


def test_archives_of_other_lengths_are_others():
    assert not rrd.holds(make(NOW, known, rows={1: 12, 12: 5}), OURS)
    assert not rrd.holds(make(NOW, known, rows={1: 12}), OURS)


def test_values_below_the_least_are_unknown_there():
    ours = make(NOW, lambda time, name: "-1.0")
    assert rrd.holds(make(NOW, lambda time, name: "NaN"), ours)


@pytest.mark.parametrize(
    "there",
    [b"", b"<html>", OURS[:200], OURS.replace(b"</v>", b"</x>"), OURS.replace(b"5</step>", b"x")]
    + [
        OURS.replace(b"<%s>%s<" % (tag, right), b"<%s>%s<" % (tag, wrong))
        for tag, right in ((b"step", b"5"), (b"lastupdate", b"%d" % NOW), (b"pdp_per_row", b"1"))
        for wrong in (b"inf", b"nan", b"1e999", b"9" * 5000)
    ],
)
def test_what_is_no_rrd_holds_nothing(there):
    assert not rrd.holds(there, OURS)
    assert not rrd.holds(OURS, there), "nor is it believed that there was nothing"


def test_steps_of_no_seconds_are_those_of_no_rrd():
    none = OURS.replace(b"<step>5<", b"<step>0<")
    assert none != OURS and not rrd.holds(none, OURS) and not rrd.holds(none, none)


def test_blanks_around_a_value_cost_no_more_than_their_number():
    """Some 20000 years with a pattern that shares them out."""
    blanks = b" " * 1000000
    assert rrd.holds(OURS.replace(b"<v>", b"<v>" + blanks, 1), OURS)
    assert not rrd.holds(OURS.replace(b"<v>", b"<v>" + blanks + b"<x>", 1), OURS)


def test_far_more_sources_than_any_vm_has_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(rrd, "MOST", 3)
    assert not rrd.holds(OURS, OURS), "two of them in two archives"


@contextlib.contextmanager
def rrdd(monkeypatch, answer):
    """An rrdd: `answer(method, path, body)` -> (status, bytes)."""
    root = tempfile.mkdtemp(prefix="sxm-")
    monkeypatch.setenv("SXM_ROOT", root)
    os.makedirs(root + "/var/lib/xcp")

    class Handler(http.server.BaseHTTPRequestHandler):
        def reply(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, data = answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = reply

        def address_string(self):
            return ""

        def log_message(self, *_):
            pass

    server = socketserver.ThreadingUnixStreamServer(root + rrd.SOCKET, Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(root)


def test_what_this_host_has_in_memory(monkeypatch):
    found = {"/vm_rrd?uuid=v": (200, OURS)}
    with rrdd(monkeypatch, lambda method, path, body: found.get(path, (404, b""))):
        assert rrd.in_memory("v") == OURS and rrd.in_memory("w") is None
    monkeypatch.setenv("SXM_ROOT", "/nowhere")
    with pytest.raises(Unreachable):
        rrd.in_memory("v")


@pytest.mark.parametrize(
    "host, arguments",
    [("master", {"vm_uuid": "v"}), ("member", {"vm_uuid": "v", "remote_address": "10.0.0.1"})],
)
def test_giving_it_to_the_master(monkeypatch, host, arguments):
    asked = []

    def answer(method, path, body):
        parameters, name = xmlrpc.client.loads(body)
        asked.append((method, path, name, parameters))
        return 200, xmlrpc.client.dumps((None,), methodresponse=True, allow_none=True).encode()

    session = types.SimpleNamespace(
        xenapi=types.SimpleNamespace(
            pool=types.SimpleNamespace(
                get_all_records=lambda: {"p": {"master": "master", "uuid": "u"}}
            ),
            host=types.SimpleNamespace(get_address=lambda ref: {"master": "10.0.0.1"}[ref]),
        )
    )
    with rrdd(monkeypatch, answer):
        rrd.archive(session, host, "v")
    assert asked == [("POST", "/", "archive_rrd", (arguments,))]
    with rrdd(monkeypatch, lambda *_: (401, b"Go away")), pytest.raises(Unreachable):
        rrd.archive(session, host, "v")
