# SPDX-License-Identifier: LGPL-2.1-only
"""What must be done on one particular host: run a plugin or an SM driver, ask its xenopsd, look at
its files.

All arguments and answers are JSON-able, so that the master can ask any host of the pool for it (see
forwarding).
"""

import logging
import os
import re
import signal
import subprocess
import tempfile
import threading
import xmlrpc.client

from lab.dom0 import forks
from lab.http_client import UnixConnection, exchange
from lab.xapi import wire, xapi_conf
from lab.xapi.failures import Failure
from lab.xapi.on_disk import STATE, replace

# seconds; xapi has none, and a plugin may well wait for a whole migration
PLUGIN_TIMEOUT = 24 * 3600.0
DRIVER_TIMEOUT = 900.0  # seconds; an activation alone may wait 120
XENOPS_TIMEOUT = 60.0  # seconds for one call of xenopsd: long work is a task there
XENOPSD_AWAY = "xenopsd cannot be reached"
_MOST_OUTPUT = 16 << 20  # bytes of a program's output that are looked at

log = logging.getLogger("xapi.exec")


class HostWork:
    """The work of the host whose dom0 has `root` as its root directory."""

    def __init__(self, root):
        self.root = root
        self._environment = {
            "SXM_ROOT": root,
            "PATH": ":".join(
                [
                    root + "/usr/sbin",
                    root + "/usr/bin",
                    os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ]
            ),
        }
        self._forks = forks.Forks(root, self._environment)
        self.listening = threading.Event()
        """Whether this host's xapi takes what xenopsd tells: not before it has found its VMs again
        (startup.py), and never if it fails in that."""
        self.functions = {
            "run_plugin": self.run_plugin,
            "run_driver": self.run_driver,
            "drivers": self.drivers,
            "xenops": self.xenops,
            "real_path": self.real_path,
            "back_up": self.back_up,
            "kept": self.kept,
            "keep": self.keep,
            "listen": self.listen,
            "is_listening": self.listening.is_set,
        }

    def path(self, absolute):
        return self.root + absolute

    def run_plugin(self, name, call):
        """Execute the plugin `name` with the method call `call` as its one argument.

        Answers {"exit", "signal", "stdout", "stderr"}. Raises XENAPI_MISSING_PLUGIN [name].
        """
        directory = self.path("/etc/xapi.d/plugins")
        if name not in _listed(directory):
            raise Failure("XENAPI_MISSING_PLUGIN", name)
        return self._run(os.path.join(directory, name), call, PLUGIN_TIMEOUT)

    def run_driver(self, driver, call):
        """Execute the SM driver of that name (`File` is FileSR) with the method call `call`;
        answers as run_plugin."""
        return self._run(self.path("/opt/xensource/sm/%sSR" % driver), call, DRIVER_TIMEOUT)

    def drivers(self):
        """The names of the executable SM drivers of this host that its xapi.conf allows, without
        their `SR`."""
        directory = self.path("/opt/xensource/sm")
        return [
            name[:-2]
            for name in sorted(_listed(directory))
            if name.endswith("SR")
            and xapi_conf.accepts(self.root, name[:-2])
            and os.access(os.path.join(directory, name), os.X_OK)
        ]

    def xenops(self, method, members):
        """Call this host's xenopsd. Raises what it answered, or an internal error that begins with
        XENOPSD_AWAY."""
        connection = UnixConnection(self.path("/run/xenopsd.sock"), XENOPS_TIMEOUT)
        try:
            return wire.ask(
                lambda body: exchange(connection, "POST", "/", body, {"Content-Type": "text/xml"}),
                method,
                [members],
            )
        except OSError as error:
            raise Failure("INTERNAL_ERROR", "%s: %s" % (XENOPSD_AWAY, error)) from error
        except xmlrpc.client.Fault as fault:
            raise Failure(
                "INTERNAL_ERROR", "xenopsd does not know %s: %s" % (method, fault.faultString)
            ) from fault

    def listen(self):
        """Take what xenopsd tells, from now on."""
        self.listening.set()

    def real_path(self, path):
        """Where dom0's `path` leads, all links followed."""
        return os.path.realpath(self.path(path))

    def back_up(self, database):
        """Keep a copy of the pool's database: a member becomes master with it (xapi_host.ml,
        `request_backup`)."""
        os.makedirs(os.path.dirname(self.path(STATE)), mode=0o700, exist_ok=True)
        replace(self.path(STATE), database.encode())

    def kept(self, path):
        """The text that `keep` wrote, or None."""
        try:
            with open(self.path(path), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def keep(self, path, text):
        """Write a text into a file of this host."""
        os.makedirs(os.path.dirname(self.path(path)), mode=0o700, exist_ok=True)
        replace(self.path(path), text.encode())

    def _run(self, program, argument, timeout):
        """Run it in dom0's environment, which is PATH (`default_path_env_pair`, forkhelpers.ml).
        Output goes to files, so that a process which it leaves behind holds nothing up."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                process = self._forks.start(program, argument, stdout, stderr) or subprocess.Popen(
                    [program, argument],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=self._environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                log.warning("cannot execute %s: %s", program, error)
                return {
                    "exit": 127,
                    "signal": None,
                    "stdout": "",
                    "stderr": "%s: %s" % (program, error.strerror),
                }
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                log.error("%s did not end within %.0f s and was killed", program, timeout)
            return {
                "exit": code if code >= 0 else None,
                "signal": _signal_name(-code) if code < 0 else None,
                "stdout": _text(stdout),
                "stderr": _text(stderr),
            }


def _listed(directory):
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _text(file):
    file.seek(0)
    return file.read(_MOST_OUTPUT).decode("utf-8", "replace")


def _signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def dom0_inventory(root):
    """R/etc/xensource-inventory as a dict; empty where there is none."""
    try:
        with open(root + "/etc/xensource-inventory", encoding="utf-8") as file:
            return dict(re.findall(r"^(\w+)='(.*)'$", file.read(), re.M))
    except FileNotFoundError:
        return {}
