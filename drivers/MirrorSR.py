#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""MirrorSR: the stock driver of an SR, with the operations that mirror its disks (mirror_lib).

Whoever runs this driver beside the stock one (storage_motion/sm/smapi.py) adds the SR's own type to
its device_config, as `type`. Everything the stock driver answers is answered by it, in both layouts
of sm. There is no type of SR of this driver's own: xapi would not register it (sm-plugins), and
SM's garbage collector would not collect it.
"""

import sys
from types import ModuleType
from typing import Any, Dict

from storage_motion.dom0 import root
from storage_motion.sm import sr_types, stock_sm

_HERE = root.path(stock_sm.DRIVERS)
if _HERE not in sys.path:  # sm also loads this file by its path, from other programs
    sys.path.append(_HERE)

import mirror_lib  # noqa: E402

xs_errors = stock_sm.module("core.xs_errors")

TYPE_KEY = "type"

# That of the package, which the hosts of a migration ask for (plan/installed.py).
VERSION = "0.1.0"

# What all stock drivers can do. A call uses the capabilities of its own.
DRIVER_INFO = {
    "name": "Mirror",
    "description": "A stock SR whose disks can be mirrored to another SR while they are in use",
    "vendor": "Storage XenMotion",
    "copyright": "",
    "driver_version": VERSION,
    "required_api_version": "1.0",
    "capabilities": [
        "SR_UPDATE",
        "VDI_CREATE",
        "VDI_DELETE",
        "VDI_ATTACH",
        "VDI_DETACH",
        "VDI_UPDATE",
        "VDI_CLONE",
        "VDI_SNAPSHOT",
        "VDI_RESIZE",
        "ATOMIC_PAUSE",
        "VDI_ACTIVATE",
        "VDI_DEACTIVATE",
        "VDI_MIRROR",
    ],
    "configuration": [
        [
            TYPE_KEY,
            "type of the SR (required): one of " + ", ".join(sorted(sr_types.DRIVERS_OF_TYPES)),
        ],
        ["*", "whatever that needs"],
    ],
}


def base_module(base_type: str) -> ModuleType:
    """The module of a stock driver. Raises SRUnknownType, which names the types that would be
    right."""
    known = sr_types.DRIVERS_OF_TYPES
    if base_type not in known:
        raise xs_errors.XenError(
            "SRUnknownType",
            opterr="device-config:%s is %r, must be one of: %s"
            % (TYPE_KEY, base_type, ", ".join(sorted(known))),
        )
    return stock_sm.driver(known[base_type])


def base_class(module: ModuleType) -> Any:
    """The class of a stock driver's module."""
    return getattr(module, module.__name__.rpartition(".")[2])


def driver_info(module: ModuleType) -> Dict[str, Any]:
    """What a stock driver says of itself, and that its disks can be mirrored."""
    info = dict(module.DRIVER_INFO)
    info["capabilities"] = sorted(
        set(info["capabilities"]) | {"VDI_MIRROR", "VDI_ACTIVATE", "VDI_DEACTIVATE"}
    )
    return info


class MirrorSR(object):
    """Makes the SR of a call, by the stock driver that its `type` names."""

    def __new__(cls, srcmd: "mirror_lib.MirrorCommand", sr_uuid: str) -> Any:
        module = base_module(srcmd.dconf.get(TYPE_KEY))
        base = base_class(module)
        srcmd.driver_info = driver_info(module)
        srcmd.dconf = {key: value for key, value in srcmd.dconf.items() if key != TYPE_KEY}
        srcmd.params = dict(srcmd.params, device_config=srcmd.dconf)
        return type("Mirror" + base.__name__, (mirror_lib.MirrorOperations, base), {})(
            srcmd, sr_uuid
        )


if __name__ == "__main__":
    mirror_lib.run(MirrorSR, DRIVER_INFO)
