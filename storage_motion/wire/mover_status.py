# SPDX-License-Identifier: LGPL-2.1-only
"""What a mover says of its disk over its control socket: the states of the mirror, and what has
broken it."""

import errno
from typing import Any, Dict, Union

from storage_motion.errors import DestinationFull, MirrorBroken

READY, MIRRORING, BROKEN, ENDED = "ready", "mirroring", "broken", "ended"


def fault_of(key: str, status: Dict[str, Any], why: str) -> Union[DestinationFull, MirrorBroken]:
    """The error that says what has broken a disk: its mover's `status`, `why` in words."""
    if errno.ENOSPC in (status.get("errno"), (status.get("copy") or {}).get("errno")):
        return DestinationFull(key, why)
    return MirrorBroken(key, why)
