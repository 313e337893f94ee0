# SPDX-License-Identifier: LGPL-2.1-only
"""Figures as a person reads them where there is little room, on the screen and in a report."""

import datetime
import math
from typing import Optional

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# seconds, their name; those of the smaller unit that is told with it, and its name
SPANS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
NOTHING = "-"


def size(count: Optional[float], base: Optional[float] = None) -> str:
    """Bytes, in the unit that suits them or `base`: "1.5 GiB". None: "-"."""
    if count is None:
        return NOTHING
    unit = unit_of(count if base is None else base)
    value = count / 1024.0**unit
    return "%s %s" % (_short(value) if unit else "%d" % value, UNITS[unit])


def part(done: float, whole: float) -> str:
    """Bytes of bytes, in one unit: "1.2/2.6 GiB"."""
    return "%s/%s" % (size(done, base=whole).split()[0], size(whole))


def rate(per_second: float) -> str:
    """Bytes per second."""
    return size(per_second) + "/s"


def unit_of(count: float) -> int:
    """The index in UNITS of the unit in which so many bytes are less than 1000."""
    unit = 0
    while abs(count) >= 1000 * 1024**unit and unit < len(UNITS) - 1:
        unit += 1
    return unit


def seconds(value: Optional[float]) -> str:
    """A duration: "0.31 s", "12 s", "3m05s", "2h07m", "3d04h". None: "-"."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < 0.9995:
        return "%.0f ms" % (value * 1000) if value < 0.1 else "%.2f s" % value
    if value < 9.95:
        return "%.1f s" % value
    whole = int(round(value))
    for large, name, small, rest in SPANS:
        if whole >= large:
            return "%d%s%02d%s" % (whole // large, name, whole % large // small, rest)
    return "%d s" % whole


def pause(value: float) -> str:
    """What `downtime` of a migration's status says. A guest sees more by its own clock: it is
    suspended before its disks are closed."""
    return "the guest stood still for %s from its disks' closing on" % seconds(value)


def latency(value: Optional[float]) -> str:
    """How long a write has waited: "0.8 ms", "12 ms", "1.2 s". None: "-"."""
    if value is None:
        return NOTHING
    if value < 0.00995:
        return "%.1f ms" % (value * 1000)
    return "%.0f ms" % (value * 1000) if value < 0.9995 else "%.1f s" % value


def moment(epoch: Optional[float]) -> str:
    """When, in UTC. None: "-"."""
    if epoch is None:
        return NOTHING
    at = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(value: float) -> str:
    return "%.1f" % value if abs(value) < 99.95 else "%.0f" % value
