# SPDX-License-Identifier: LGPL-2.1-only
"""The session that the plugin's functions get: xapi's own, over connections that threads may
share."""

import importlib.util
import json
import os
import sys
import types
import xmlrpc.client

import pytest
import XenAPI

import storage_motion
from storage_motion import waiting
from storage_motion.api import arguments, functions
from storage_motion.xapi import session, transport
from web_server import serving

PLUGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../plugins/sxm.py")


@pytest.fixture
def xapi(monkeypatch):
    """Answers every call with its first parameter, the session's handle."""

    def answer(_method, _path, _headers, body):
        (handle,), _ = xmlrpc.client.loads(body)
        return 200, xmlrpc.client.dumps(
            ({"Status": "Success", "Value": handle},), methodresponse=True
        ).encode()

    with serving(answer) as url:
        monkeypatch.setattr(
            transport, "local_connection", lambda timeout: transport.connection(url, timeout)
        )
        yield url


@pytest.fixture
def plugin(monkeypatch):
    xapis = types.ModuleType("XenAPIPlugin")
    xapis.Failure = type("Failure", (Exception,), {})
    monkeypatch.setitem(sys.modules, "XenAPIPlugin", xapis)
    spec = importlib.util.spec_from_file_location("plugin_sxm", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask_in_threads(joined):
    return waiting.at_once(lambda _: joined.xenapi.pool.get_all(), range(60))


def test_threads_share_it(xapi):
    assert ask_in_threads(session.joined("OpaqueRef:p", 20)) == ["OpaqueRef:p"] * 60


def test_a_function_of_the_plugin_gets_it(xapi, plugin, monkeypatch):
    # XenAPIPlugin's own has one connection for all threads: an undo of two disks at once died of
    # that (CannotSendRequest).
    handed = XenAPI.Session("http://127.0.0.1:1/")
    handed._session = "OpaqueRef:q"
    takes = arguments.Takes((arguments.Argument("vm", "a VM"),))
    monkeypatch.setitem(
        functions.FUNCTIONS,
        "probe",
        functions.Function(
            "probes", takes, lambda joined, given: {"asked": ask_in_threads(joined), "given": given}
        ),
    )
    answer = json.loads(plugin.answering("probe")(handed, {"vm": "v"}))
    assert answer == {
        "asked": ["OpaqueRef:q"] * 60,
        "given": {"vm": "v"},
        "version": storage_motion.__version__,
    }
