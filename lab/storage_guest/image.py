# SPDX-License-Identifier: LGPL-2.1-only
"""The storage guest's image: built once for each recipe, and kept in build/storage-guest/."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.join(REPOSITORY, "build/storage-guest")
RECIPE = ("build.sh", "packages.txt", "initrd-init")
PARTS = ("vmlinuz", "initrd.img", "root.ext4")
PYTHON_PACKAGES = ("XenAPI", "lxml", "pytest", "pytest-timeout", "lark")
BUILD = 1800.0
"""Seconds that a build may take."""


class BuildFailed(Exception):
    """The image could not be built; the text says where the log is."""


def requirements():
    """The lines of requirements.txt for what runs inside."""
    with open(os.path.join(REPOSITORY, "requirements.txt")) as lines:
        wanted = [
            line.strip()
            for line in lines
            if re.split(r"[=<>!~]", line.strip())[0] in PYTHON_PACKAGES
        ]
    if len(wanted) != len(PYTHON_PACKAGES):
        raise BuildFailed("requirements.txt does not name all of: %s" % ", ".join(PYTHON_PACKAGES))
    return wanted


def key():
    """What identifies the image: a digest of everything that it is made by."""
    digest = hashlib.sha256("\n".join(requirements()).encode())
    for name in RECIPE:
        with open(os.path.join(HERE, name), "rb") as source:
            digest.update(b"%s\0%s\0" % (name.encode(), source.read()))
    return digest.hexdigest()[:16]


def ensure():
    """The directory with the image's PARTS; built first if this recipe's is not there. Raises
    BuildFailed."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = os.path.join(CACHE, key())
        if not os.path.isdir(directory):
            _build(directory)
        return directory


def _build(directory):
    if os.getuid() != 0:
        raise BuildFailed("building the storage guest needs root")
    for old in os.listdir(CACHE):
        if os.path.isdir(os.path.join(CACHE, old)):
            shutil.rmtree(os.path.join(CACHE, old))
    beside = directory + ".new"
    os.makedirs(beside)
    log = os.path.join(CACHE, "build.log")
    print(
        "Building the storage guest from Debian's packages (about a minute); %s tells how it goes"
        % log,
        flush=True,
    )
    with open(log, "w") as out:
        try:
            done = subprocess.run(
                [os.path.join(HERE, "build.sh"), beside] + requirements(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=BUILD,
            )
        except subprocess.TimeoutExpired:
            raise BuildFailed("not done within %d s, see %s" % (BUILD, log)) from None
    if done.returncode != 0 or not all(
        os.path.exists(os.path.join(beside, part)) for part in PARTS
    ):
        raise BuildFailed("%s\n(the end of %s)" % (_tail(log), log))
    os.rename(beside, directory)


def _tail(path):
    with contextlib.suppress(OSError), open(path, errors="replace") as log:
        return log.read()[-3000:]
    return ""
