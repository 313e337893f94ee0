# SPDX-License-Identifier: LGPL-2.1-only
"""Logging in to another pool: what is wrong is told apart, and the password is in nothing that is
told."""

import types
import xmlrpc.client

import pytest
import XenAPI

from storage_motion.errors import Unreachable
from storage_motion.xapi import session
from web_server import serving

PASSWORD = "correct horse"


def login(answer):
    with serving(lambda *_: answer) as url:
        return session.remote(url, "root", PASSWORD, timeout=5)


def result(value):
    return 200, xmlrpc.client.dumps((value,), methodresponse=True).encode()


def failing(*description):
    return result({"Status": "Failure", "ErrorDescription": list(description)})


def test_a_session():
    assert login(result({"Status": "Success", "Value": "OpaqueRef:s"})).handle == "OpaqueRef:s"


@pytest.mark.parametrize(
    "answer, error, part",
    [
        (failing("SESSION_AUTHENTICATION_FAILED", "root", PASSWORD), session.BadCredentials, ""),
        (failing("HOST_IS_SLAVE", "10.0.0.9"), session.HostIsSlave, "10.0.0.9"),
        (failing("HOST_STILL_BOOTING"), Unreachable, "HOST_STILL_BOOTING"),
        (failing("UUID_INVALID", "host", "u"), Unreachable, "HOST_STILL_BOOTING"),
        ((404, b"nothing here"), Unreachable, "404"),
        ((200, b"<html>a printer</html>"), Unreachable, "not a xapi"),
        ((200, b""), Unreachable, "not a xapi"),
        (result("hello"), Unreachable, "not a xapi"),
        (result({"Status": "Success"}), Unreachable, "not a xapi"),
    ],
)
def test_what_answers_otherwise(answer, error, part):
    with pytest.raises(error) as raised:
        login(answer)
    assert part in str(raised.value) and PASSWORD not in str(raised.value)


def test_nobody_there():
    with serving(lambda *_: (200, b"")) as url:
        pass
    with pytest.raises(Unreachable) as raised:
        session.remote(url, "root", PASSWORD, timeout=5)
    assert "refused" in str(raised.value).lower()


def test_http_where_https_was_meant():
    with serving(lambda *_: (200, b"")) as url:
        with pytest.raises(Unreachable) as raised:
            session.remote(url.replace("http:", "https:"), "root", PASSWORD, timeout=5)
    assert "TLS" in str(raised.value)


@pytest.mark.parametrize(
    "text, url",
    [
        ("10.0.0.1", "https://10.0.0.1"),
        ("10.0.0.1:8443", "https://10.0.0.1:8443"),
        ("https://[::1]:443/", "https://[::1]:443"),
        ("2001:db8::10", "https://[2001:db8::10]"),
        ("::1", "https://[::1]"),
        ("2001:db8:0:0:0:0:0:443", "https://[2001:db8:0:0:0:0:0:443]"),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_addresses(text, url):
    assert session.url_of(text) == url


@pytest.mark.parametrize(
    "text, right",
    [
        ("2001:db8::1:443", "[2001:db8::1:443] may be meant, or [2001:db8::1]:443"),
        ("2001:db8:0:0:0:0:0:1:443", "wants brackets"),
        ("fe80::1%eth0", "wants brackets"),
        ("2001:db8::1:99999", "wants brackets"),
    ],
)
def test_an_address_that_may_mean_two_things(text, right):
    with pytest.raises(ValueError) as raised:
        session.url_of(text)
    assert right in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://10.0.0.1",
        "HTTP://10.0.0.1",
        "hTtP://10.0.0.1:443",
        "http://[2001:db8::1]",
        "http://[2001:db8::1]:443",
        "http://2001:db8::1",
        "http://root:pw@10.0.0.1",
        "http://x/",
    ],
)
def test_a_password_is_not_sent_in_clear(text):
    with pytest.raises(ValueError) as raised:
        session.url_of(text)
    assert str(raised.value) == "the password would go there in clear: leave http:// out"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "://",
        "ssh://x",
        "x:port",
        "root:pw@x",
        "x/path",
        "x?y",
        "x:99999",
        "http:10.0.0.1",
        "http:/10.0.0.1",
        "//10.0.0.1",
        "https://root:pw@x",
        "https://x#y",
        "h%74tp://x",
        "x\\@y",
        " http://x",
        "\thttp://x",
        "ht\ntp://x",
        "https://x\n",
        "x ",
        "https:// x",
        "x\r\ny",
        "https://x\0.y",
        "x\u2028y",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError):
        session.url_of(text)


@pytest.fixture
def xapi():
    """A xapi that answers with what its `answers` have, by method; `asked`: [(method, its first
    parameter)]"""
    asked, answers = [], {}

    def answer(_method, _path, _headers, body):
        parameters, method = xmlrpc.client.loads(body)
        asked.append((method, parameters[0]))
        found = answers.get(method, [SUCCESS])
        value = found.pop(0) if len(found) > 1 else found[0]
        return 200, xmlrpc.client.dumps((value,), methodresponse=True).encode()

    with serving(answer) as url:
        yield types.SimpleNamespace(url=url, asked=asked, answers=answers)


SUCCESS = {"Status": "Success", "Value": "OpaqueRef:s"}


def refused(*description):
    return {"Status": "Failure", "ErrorDescription": list(description)}


def test_another_session_is_ended_surely(xapi):
    own = session.remote(xapi.url, "root", PASSWORD, timeout=5)
    session.end_surely(own, "OpaqueRef:dead")
    assert xapi.asked[-1] == ("session.logout", "OpaqueRef:dead")
    xapi.answers["session.logout"] = [refused("SESSION_INVALID", "OpaqueRef:dead")]
    session.end_surely(own, "OpaqueRef:dead")
    xapi.answers["session.logout"] = [refused("INTERNAL_ERROR", "x")]
    with pytest.raises(XenAPI.Failure):
        session.end_surely(own, "OpaqueRef:dead")


def test_that_it_was_logged_in_anew_is_told(xapi):
    own, told = session.remote(xapi.url, "root", PASSWORD, timeout=5), []
    own.began = told.append
    xapi.answers["session.login_with_password"] = [dict(SUCCESS, Value="OpaqueRef:anew")]
    xapi.answers["pool.get_all"] = [refused("SESSION_INVALID", "x"), dict(SUCCESS, Value=["p"])]
    assert own.xenapi.pool.get_all() == ["p"] and told == ["OpaqueRef:anew"]
