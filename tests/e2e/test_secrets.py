# SPDX-License-Identifier: LGPL-2.1-only
"""No password, token or private key of ours is to be read anywhere but in private files of
/run/sxm, and there only while it is needed.

Watched during a whole move: the command line and environment of every process of the machine, each
file of every host, what the plugin answers and what xapi's tasks tell. Two places are xapi's own
interface and not ours, and are told loudly: the call that xapi hands a plugin in argv[1], with all
arguments, which ours blanks as soon as it runs; and the session refs in the argv of the storage
manager's drivers.
"""

import glob
import json
import os
import re
import stat
import threading
import time

import pytest
import XenAPI

from lab.dom0 import kept_receiver_key
from lab.pools.link import Link
from lab.pools.topology import PoolPlan
from tests.e2e.scene import MIB
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (4 * MIB, 24 * MIB)
RATE = 2 * MIB  # bytes a second: the copy takes long enough to look at everything
PATIENCE = 240.0
PAUSE = 0.02  # seconds between two looks at everything
LOOKS = 10  # in the middle of the copy
# where the lab's xapi has its pool's password, as the real one has it in PAM
XAPIS_OWN = "/etc/lab-xapi.json"
SESSION = re.compile(rb"session_id=OpaqueRef:[0-9a-f-]+")
WRONG = "wrong-3f9d81c2aa"


class Watch(threading.Thread):
    """Reads what is public of all processes, again and again, and picks up the secrets as they are
    made."""

    def __init__(self, lab):
        super().__init__(daemon=True)
        self._lab, self._end = lab, threading.Event()
        self.since = None  # from when on a plugin has had the time to blank its argument
        self.seen = {}  # command line -> the last time it was seen
        self.environments = set()
        self.looks = 0  # at everything
        self.secrets = {}  # what it is -> its text
        self.wrong_modes = set()
        self.files = set()  # names that have held a secret

    def run(self):
        known = set()
        while not self._end.is_set():
            for pid in [
                name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()
            ]:
                try:
                    with open("/proc/%s/cmdline" % pid, "rb") as source:
                        self.seen[source.read()] = time.monotonic()
                    if pid not in known:
                        with open("/proc/%s/environ" % pid, "rb") as source:
                            self.environments.add(source.read())
                        known.add(pid)
                except (OSError, ProcessLookupError):
                    pass  # gone, or not ours to read
            for host in self._lab.hosts:
                self._private(host.root + "/run/sxm")
            self.looks += 1
            self._end.wait(PAUSE)

    def _private(self, directory):
        for folder, _, names in os.walk(directory):
            for name in [""] + names:
                path = os.path.join(folder, name)
                try:
                    mode = os.lstat(path).st_mode
                    allowed = 0o700 if stat.S_ISDIR(mode) else 0o600
                    # a socket that is just being made, before it has its mode and its name
                    making = stat.S_ISSOCK(mode) and name.endswith(".new")
                    if mode & 0o077 or not making and stat.S_IMODE(mode) != allowed:
                        self.wrong_modes.add((path, oct(mode)))
                    if stat.S_ISREG(mode):
                        self._pick(name, path)
                except OSError:
                    pass  # removed meanwhile

    def _pick(self, name, path):
        with open(path, "rb") as source:
            text = source.read()
        if re.match(r"receive\d+\.json$", name) and text:
            self.secrets["token"] = json.loads(text.decode())["token"].encode()
            self.files.add(name)

    def end(self):
        self._end.set()
        self.join(PATIENCE)


def holding(lab, secrets, images=False):
    """Files of the hosts that hold one of `secrets`: [(path, what it is)]."""
    found = []
    for host in lab.hosts:
        for folder, _, names in os.walk(host.root):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    if (
                        path == host.root + XAPIS_OWN
                        or not stat.S_ISREG(os.lstat(path).st_mode)
                        or os.path.getsize(path) > 8 * MIB
                        and not images
                    ):
                        continue
                    with open(path, "rb") as source:
                        text = source.read()
                except OSError:
                    continue  # removed meanwhile
                found += [(path, what) for what, secret in secrets.items() if secret in text]
    return found


def tasks(lab):
    return json.dumps(
        [pool.xapi.task.get_all_records() for pool in lab.pools], default=str
    ).encode()


def assert_silent(secrets, text):
    assert not [what for what, secret in secrets.items() if secret in text]


@pytest.fixture
def kept_key(lab, scene):
    """The path of the receiver's private key, which itself removes it within the blink of an
    eye."""
    path = os.path.join(os.path.dirname(lab.hosts[0].root), "kept-key")
    kept_receiver_key.begin(scene.there.root, path)
    yield path
    kept_receiver_key.end(scene.there.root)


def private_key(path):
    """Its first line of base64, which has the secret number (RFC 5915; the public one comes after
    it)."""
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(path, "rb") as source:
        lines = source.read().splitlines()
    assert lines[0] == b"-----BEGIN EC PRIVATE KEY-----" and len(lines[1]) == 64
    return lines[1]


@pytest.mark.timeout(600)
def test_secrets_of_a_move(lab, scene, kept_key):
    password = scene._pool_of(scene.there).password.encode()
    watch, answer = Watch(lab), {}
    source, there, session = scene.host, scene.there, scene.pool.session()

    # waits for the end, as the administrator's command does: a plugin that lives as long as the
    # migration
    def migrate():
        host = session.xenapi.host.get_by_uuid(source.uuid)
        answer["end"] = session.xenapi.host.call_plugin(
            host, "sxm.py", "migrate", scene.arguments()
        )

    def copying():
        assert caller.is_alive()
        for path in glob.glob(source.root + "/var/lib/sxm/*-*.json"):
            migration = os.path.basename(path)[: -len(".json")]
            if scene.journal(migration)["phase"] == "sync":
                return migration

    with Link(lab.hosts) as link:
        link.limit(RATE)
        watch.start()
        caller = threading.Thread(target=migrate)
        caller.start()
        try:
            migration = eventually(copying, "the copy", PATIENCE)
            watch.since = time.monotonic()
            eventually(lambda: "token" in watch.secrets, "it is known, to be looked for", PATIENCE)
            secrets = dict(
                watch.secrets, password=password, **{"private key": private_key(kept_key)}
            )
            held = holding(lab, secrets)
            for path, what in held:
                assert "/run/sxm/" in path, (path, what)
            assert {what for _, what in held} == {"token", "password"}, "this test would find them"
            for function, arguments in (("status", {"migration": migration}), ("list", {})):
                assert_silent(secrets, json.dumps(scene.call(function, **arguments)).encode())
            assert_silent(secrets, tasks(lab))
            looks = watch.looks + LOOKS
            eventually(lambda: watch.looks >= looks, "%d looks" % LOOKS, PATIENCE)
        finally:
            link.heal()
            caller.join(PATIENCE)
    watch.end()
    secrets = dict(secrets, **watch.secrets)
    assert json.loads(answer["end"])["state"] == "succeeded"
    scene.host = there
    # Nothing is left of them. Disks are looked through as well.
    assert holding(lab, secrets, images=True) == []
    for host in lab.hosts:
        assert not glob.glob(host.root + "/run/sxm/*/*"), "private files are left"
        for log in glob.glob(host.root + "/var/log/*"):
            with open(log, "rb") as text:
                text = text.read()
            assert b"PRIVATE KEY" not in text
            assert os.path.basename(log) != "sxm.log" or not SESSION.search(text)
    assert_silent(secrets, answer["end"].encode() + tasks(lab))
    assert not watch.wrong_modes, watch.wrong_modes
    assert watch.files == {"receive1.json"}
    for environment in watch.environments:
        assert_silent(secrets, environment)
    plugins, drivers = 0, 0
    for line, when in watch.seen.items():
        what = [name for name, secret in secrets.items() if secret in line]
        if what == ["password"] and b"/etc/xapi.d/plugins/sxm.py" in line:
            plugins += 1
            assert when < watch.since, "the plugin did not blank its argument"
            continue
        assert not what, (what, line[:200])
        if b"session_ref" in line:
            assert re.search(rb"/opt/xensource/sm/\w+SR", line), line[:200]
            drivers += 1
    print(
        "EXEMPT, xapi's own interface: %d plugin calls with the password in argv[1] until it was "
        "blanked; %d calls of the storage manager's "
        "drivers with a session ref in argv[1]" % (plugins, drivers)
    )
    scene.assert_runs()
    scene.assert_nothing_left()


def test_modes_of_what_stays(lab):
    for host in lab.hosts:
        for folder in ("/var/lib/sxm", "/run/sxm"):
            assert stat.S_IMODE(os.stat(host.root + folder).st_mode) == 0o700
        for path in glob.glob(host.root + "/var/lib/sxm/*") + glob.glob(
            host.root + "/var/log/sxm.log"
        ):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path


def test_a_wrong_password_is_not_repeated(lab, scene):
    with pytest.raises(XenAPI.Failure) as refused:
        scene.begin(**dict(scene.arguments(), **{"remote-password": WRONG}))
    assert WRONG not in str(refused.value)
    assert holding(lab, {"password": WRONG.encode()}) == []
