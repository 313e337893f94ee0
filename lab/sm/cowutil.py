# SPDX-License-Identifier: LGPL-2.1-only
"""The image formats of XCP-ng's storage manager since May 2026 (its cowutil.py, qcow2util.py,
SR.py); installed in its layout only.

A VHD of the lab has QCOW2 inside, since no program here serves a chain of VHDs; it is rounded,
limited, named and listed as a VHD, and its tapdisk has none of the faults of a QCOW2 one. Where
this module is not, the one format that there is stands for VHD.
"""

from sm.core import xs_errors

PREFERRED = "preferred-image-formats"
# By name: what a size is rounded up to, and the largest, in bytes.
FORMATS = {"vhd": (2 * 1024 * 1024, 2040 * 1024**3), "qcow2": (64 * 1024, 17589500641280)}
DEFAULT = ("vhd", "qcow2")


def chosen(sm_config, device_config, size):
    """The format of a new VDI: the one that is asked for, or the first preferred one that is large
    enough. Raises VDIType."""
    asked = sm_config.get("image-format") or sm_config.get("type")
    if asked:
        if asked not in FORMATS:
            raise xs_errors.XenError("VDIType", opterr="Unknown image format `%s`" % asked)
        return asked
    wanted = [name.strip() for name in device_config.get(PREFERRED, "").split(",")]
    preferred = [name for name in wanted if name in FORMATS] or DEFAULT
    return next((name for name in preferred if size <= FORMATS[name][1]), preferred[-1])


def rounded(name, size):
    """A size as the format has it. Raises VDISize."""
    unit, largest = FORMATS[name]
    if size < 0 or size > largest:
        raise xs_errors.XenError(
            "VDISize", opterr="VDI size must be between 1 MB and %d MB" % (largest // (1024 * 1024))
        )
    return max(1, -(-size // unit)) * unit
