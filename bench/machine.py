# SPDX-License-Identifier: LGPL-2.1-only
"""On what a run was made: the machine, and the versions of all that took part."""

import os
import platform
import re
import ssl
import subprocess

from bench import VENV

VERSIONS = (  # name, command, whether the version is in the first line of what it prints
    ("qemu", ("qemu-img", "--version")),
    ("libnbd (nbdcopy)", ("nbdcopy", "--version")),
    ("nbdkit", ("nbdkit", "--version")),
    ("stunnel", ("stunnel", "-version")),
    ("fio", ("fio", "--version")),
    ("ovirt-imageio", (os.path.join(VENV, "bin/pip"), "show", "ovirt-imageio")),
)


def printed(command):
    """What `command` prints, stderr too; nothing if there is no such program."""
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        ).stdout.decode(errors="replace")
    except OSError:
        return ""


def version(command):
    """The first number with dots that `command` prints, or "not installed"."""
    found = re.search(r"\d+\.\d+(\.\d+)*", printed(command))
    return found.group(0) if found else "not installed"


def processor():
    """The processor's name, as /proc/cpuinfo has it."""
    with open("/proc/cpuinfo") as source:
        found = re.search(r"model name\s*: (.*)", source.read())
    return found.group(1) if found else platform.machine()


def memory():
    """GiB of memory."""
    with open("/proc/meminfo") as source:
        return round(int(source.readline().split()[1]) / 2**20)


def describe():
    """{what: text}"""
    found = {
        "processor": "%s, %d cores" % (processor(), os.cpu_count()),
        "memory": "%d GiB" % memory(),
        "kernel": platform.release(),
        "commit": printed(("git", "describe", "--always", "--dirty")).strip(),
        "load at the begin": "%.1f" % os.getloadavg()[0],
        "Python": platform.python_version(),
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
    }
    found.update((name, version(command)) for name, command in VERSIONS)
    return found
