# SPDX-License-Identifier: LGPL-2.1-only
"""The image formats of disks: what an SR makes of them, and how large a disk each can hold."""

from typing import Any, Dict, Iterable, Optional, Tuple

from storage_motion.xapi.records import Records

RAW, VHD, QCOW2 = "raw", "vhd", "qcow2"
ASKED = (VHD, QCOW2)  # what image-format: may say
# Key of sm_config: what VDI.create is asked for, and what XCP-ng's SM notes of each VDI.
IN_SM_CONFIG = "image-format"
# Key of a PBD's device_config: "vhd,qcow2"; SM takes the first that is large enough.
PREFERRED = "preferred-image-formats"
GIB = 1024**3
ON_LVM = ("lvm", "lvmoiscsi", "lvmohba")

# Bytes of the largest disk that SM makes: vhdutil.py (MAX_VHD_SIZE), qcow2util.py of XCP-ng
# (MAX_QCOW_SIZE).
LARGEST = {VHD: 2040 * GIB, QCOW2: 17589500641280}
UNKNOWN = (VHD,)  # the formats where nothing is said: what each SM has

# SM rounds a size up, to blocks of 2 MiB for VHD (vhdutil.py), to 64 KiB for QCOW2, to extents of 4
# MiB for raw volumes.
ROUNDING = 4 * 1024**2


def supported(records: Records, sr: Dict[str, Any]) -> Tuple[str, ...]:
    """The formats that SM says it can make in an SR (its record), by xapi; () if it says none, as
    XCP-ng's does not (May 2026)."""
    drivers = [driver for driver in records.all("SM").values() if driver["type"] == sr["type"]]
    return tuple(
        sorted({kind for driver in drivers for kind in driver.get("supported_image_formats", ())})
    )


def made(records: Records, sr: Dict[str, Any], host: Optional[str]) -> Tuple[str, ...]:
    """The formats in which a disk may be made in an SR (its record) from `host` (a ref), if none is
    asked for: the first that is large enough."""
    known = supported(records, sr)
    pbds = [records.of("PBD", ref) for ref in sr["PBDs"]]
    said = [pbd["device_config"].get(PREFERRED, "") for pbd in pbds if pbd and pbd["host"] == host]
    wanted = [kind.strip() for text in said for kind in text.split(",")]
    preferred = tuple(kind for kind in wanted if kind in LARGEST and (not known or kind in known))
    return preferred or tuple(kind for kind in known if kind in LARGEST) or UNKNOWN


def fits(size: int, kinds: Iterable[str]) -> bool:
    """Whether a disk of `size` bytes can be made in one of these formats."""
    return any(size <= LARGEST[kind] for kind in kinds)


def will_be(
    records: Records, sr: Dict[str, Any], host: Optional[str], size: int, asked: str
) -> str:
    """The format of a disk of `size` bytes that is made there; `asked`: for which, or ""."""
    kinds = (asked,) if asked else made(records, sr, host)
    return next((kind for kind in kinds if fits(size, (kind,))), "")


def may_be_asked(sr_type: str) -> bool:
    """Whether SM makes a disk in the format that it is asked for. On LVM XCP-ng's fails then, as of
    3.2.12-21.9 (LVMSR.py, load: it sets no type), and the others' make VHD, whatever is asked."""
    return sr_type not in ON_LVM


def of(vdi: Dict[str, Any]) -> str:
    """The format of a VDI (its record) as far as SM has noted it, else ""."""
    return vdi["sm_config"].get(IN_SM_CONFIG, "")


def is_as_large(made_bytes: int, wanted_bytes: int) -> bool:
    """Whether a disk is the one of `wanted_bytes` that was asked for: SM may have rounded it up."""
    return wanted_bytes <= made_bytes < wanted_bytes + ROUNDING
