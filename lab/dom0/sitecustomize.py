# SPDX-License-Identifier: LGPL-2.1-only
"""What a test has the Python processes of a host do before they begin: every module in lab_before/
beside this one.

Installed by `lab.dom0.before` while a test asks for it, so that the product itself knows nothing of
it.
"""

import importlib
import os


def runs(module):
    """Whether this process is `python -m module ...`."""
    with open("/proc/self/cmdline", "rb") as cmdline:
        return module in cmdline.read().decode("utf-8", "replace").split("\0")


def setting(place):
    """The setting that `lab.dom0.before` has put at `place`; None without it."""
    try:
        with open(os.environ.get("SXM_ROOT", "") + place) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


_BEFORE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lab_before")

if os.path.isdir(_BEFORE):
    for _name in sorted(os.listdir(_BEFORE)):
        if _name.endswith(".py"):
            importlib.import_module("lab_before." + _name[: -len(".py")])
