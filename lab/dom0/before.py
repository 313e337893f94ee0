# SPDX-License-Identifier: LGPL-2.1-only
"""Puts a module of the lab in front of the Python processes of a host, and takes it away again.

A module may have a setting: a text in a file of the host, which tells it what to do there.
"""

import contextlib
import os
import shutil

from lab.dom0.scripts import SITE_PACKAGES

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "lab_before."
"""How the name of a module begins while it runs there."""


def install(root, path, place=None, setting=""):
    """Have each Python process that starts on the host at `root` import the module at `path`
    first. `place`, if it has one: where on the host its `setting` is."""
    if place:
        with open(root + place, "w") as stream:
            stream.write(setting)
    site = root + SITE_PACKAGES
    os.makedirs(site + "/lab_before", exist_ok=True)
    shutil.copyfile(os.path.abspath(path), os.path.join(site, "lab_before", os.path.basename(path)))
    shutil.copyfile(os.path.join(HERE, "sitecustomize.py"), site + "/sitecustomize.py")


def remove(root, path, place=None):
    """Processes that start from now on do without it. Its setting goes too, and is answered: None,
    if it was gone."""
    installed = os.path.join(root + SITE_PACKAGES, "lab_before", os.path.basename(path))
    if os.path.exists(installed):
        os.unlink(installed)
    if place:
        with contextlib.suppress(FileNotFoundError):
            with open(root + place) as stream:
                setting = stream.read()
            os.unlink(root + place)
            return setting
    return None


def modules(root):
    """The names of those that run before the Python processes of the host at `root`."""
    try:
        found = os.listdir(root + SITE_PACKAGES + "/lab_before")
    except FileNotFoundError:
        return []
    return [name for name in found if name.endswith(".py")]
