# SPDX-License-Identifier: LGPL-2.1-only
"""What a contestant is given to run on: a directory in memory, an engine, certificates, and a
meter."""

import os
import socket
import subprocess

from bench.usage import Meter
from data_harness import Site
from tests.eventually import eventually

ANSWER = (  # what a server's certificate says
    "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n"
)
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]


def free_port():
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


HERE = ("0100007F", "00000000")  # 127.0.0.1, and any address, in the kernel's tables


def listens(port=None, path=None):
    """Whether somebody listens on `port` of 127.0.0.1, or at the unix socket `path`: a lab beside
    this has the same ports of other addresses.

    Seen in the kernel's tables: a connection would be passed on to the disk behind it."""
    if port is not None:
        with open("/proc/net/tcp") as source:
            rows = [line.split() for line in source]
        ours = ["%s:%04X" % (address, port) for address in HERE]
        return any(row[3] == "0A" and row[1] in ours for row in rows[1:])
    return any(flags == "00010000" for flags, _ in _unix(path))


def established(path):
    """Whether somebody is connected to the unix socket `path`."""
    return any(state == "03" for _, state in _unix(path))


def _unix(path):
    """(flags, state) of the kernel's sockets with that path."""
    with open("/proc/net/unix") as source:
        rows = [line.split() for line in source]
    return [(row[3], row[5]) for row in rows[1:] if row[-1] == path]


class Stage(Site):
    """A Site of the tests' (its processes end with it) and its engine.

    meter: a Meter, to which each standing process is told."""

    def __init__(self, engine):
        self.engine = engine
        self.meter = Meter()
        self._pki = None

    def __exit__(self, *details):
        try:
            self.engine.close()
        finally:
            super().__exit__(*details)

    def stand(self, role, arguments, port=None, path=None):
        """Start a process of that role, and wait until it listens on `port` or at `path`."""
        process = self.start(arguments)
        self.meter.stand(role, process.pid)
        eventually(
            lambda: process.poll() is not None or listens(port, path), "%s listens" % arguments[0]
        )
        if process.poll() is not None:
            raise RuntimeError("%s ended: %s" % (arguments[0], self.complaints()))
        return process

    def disk(self, image, role):
        """Serve an image by the engine, as `role`; its NBD socket."""
        pid, path = self.engine.serve(self, image)
        self.meter.stand(role, pid)
        return path

    def pki(self):
        """A directory with ca-cert.pem, server-cert.pem and server-key.pem, named as GnuTLS's users
        want them."""
        if self._pki is None:
            self._pki = self.path("pki")
            os.mkdir(self._pki)
            for command in (
                ["req", "-x509", *KEY, "ca-key.pem", "-subj", "/CN=bench", "-out", "ca-cert.pem"],
                ["req", *KEY, "server-key.pem", "-subj", "/CN=127.0.0.1", "-out", "request"],
                "x509 -req -in request -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial"
                " -extfile answer -out server-cert.pem".split(),
            ):
                with open(os.path.join(self._pki, "answer"), "w") as target:
                    target.write(ANSWER)
                subprocess.check_call(
                    ["openssl", *command], cwd=self._pki, stderr=subprocess.DEVNULL
                )
        return self._pki

    def serve_tls(self, image, role):
        """Serve an image by TLS on a port: straight by qemu-nbd if the engine is qemu's, else by
        nbdkit before it; the port."""
        port = free_port()
        if self.engine.mirrors_by_itself:
            tls = "tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir=" + self.pki()
            command = "qemu-nbd -t -e 16 -f raw --cache=none -x tapdisk_client".split()
            command += ["-b", "127.0.0.1", "-p", str(port), "--object", tls, "--tls-creds", "tls"]
            self.stand(role, [*command, image], port=port)
        else:
            path = self.disk(image, role)
            command = "nbdkit -f --tls=require -i 127.0.0.1 nbd".split()
            command += ["--tls-certificates=" + self.pki(), "-p", str(port), "socket=" + path]
            self.stand("TLS at the destination", command, port=port)
        return port

    def stunnel(self, name, path):
        """A pair of stunnels before the unix socket `path`: the unix socket at the source."""
        port, entry = free_port(), self.path(name + ".stunnel")
        certificates = self.pki()
        ends = (
            (
                "stunnel at the destination",
                "accept = 127.0.0.1:%d\nconnect = %s\ncert = %s/server-cert.pem\n"
                "key = %s/server-key.pem\n" % (port, path, certificates, certificates),
                dict(port=port),
            ),
            (
                "stunnel at the source",
                "client = yes\naccept = %s\nconnect = 127.0.0.1:%d\nverifyChain = yes\n"
                "CAfile = %s/ca-cert.pem\n" % (entry, port, certificates),
                dict(path=entry),
            ),
        )
        for role, service, place in ends:
            settings = self.path("%s-%s.conf" % (name, role.rpartition(" ")[2]))
            with open(settings, "w") as target:
                target.write("foreground = yes\nsyslog = no\ndebug = err\npid =\n")
                target.write("socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n")
                target.write("[%s]\n%s" % (name, service))
            self.stand(role, ["stunnel", settings], **place)
        return entry
