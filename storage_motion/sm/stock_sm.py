# SPDX-License-Identifier: LGPL-2.1-only
"""The host's own storage manager (sm), in whichever of its two layouts it is installed.

Upstream has it as the package `sm`; on XCP-ng 8.3 the same modules lie flat in /opt/xensource/sm.
This is the one place that knows: everything else asks here, by the name inside the package.
"""

import importlib
import sys
from types import ModuleType
from typing import Sequence

from storage_motion.dom0 import root

DRIVERS = "/opt/xensource/sm"


def is_package() -> bool:
    """Whether sm is a package here. Raises ImportError if there is no sm at all."""
    try:
        importlib.import_module("sm.core")
        return True
    except ImportError as error:
        if error.name not in ("sm", "sm.core"):
            raise
    flat = root.path(DRIVERS)
    if flat not in sys.path:
        sys.path.append(flat)
    importlib.import_module("SRCommand")
    return False


def module(name: str) -> ModuleType:
    """A module of sm by its name in the package: "blktap2", "core.util", "drivers.FileSR". Raises
    ImportError."""
    if is_package():
        return importlib.import_module("sm." + name)
    return importlib.import_module(name.rpartition(".")[2])


def driver(names: Sequence[str]) -> ModuleType:
    """The module of the first of these drivers that this sm has: ["LVMSR", "LVHDSR"]. Raises
    ImportError if it has none."""
    for name in names:
        try:
            return module("drivers." + name)
        except ImportError as error:
            if error.name is None or error.name.rpartition(".")[2] != name:
                raise  # it is there, and something that it needs is not
    raise ImportError("sm has none of the drivers %s" % ", ".join(names))
