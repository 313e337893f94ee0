# SPDX-License-Identifier: LGPL-2.1-only
"""The same plugin on the other hosts of this pool."""

import json
from typing import Any, Dict, List, Sequence

import XenAPI

from storage_motion.dom0 import inventory
from storage_motion.errors import MotionError
from storage_motion.plan import checks
from storage_motion.xapi.records import Records


class RemoteFailure(MotionError):
    """A failure of the plugin on another host, or of xapi: passed on as it came."""

    def __init__(self, description: Sequence[str]) -> None:
        super(RemoteFailure, self).__init__(*description[1:])
        self.code = description[0]


def alive(session: "XenAPI.Session") -> List[str]:
    """The refs of the other hosts of this pool that are alive."""
    view = Records(session)
    mine = inventory.host_uuid()
    hosts = sorted(view.all("host").items())
    return [ref for ref, host in hosts if host["uuid"] != mine and checks.usable(view, host)]


def call(
    session: "XenAPI.Session", host: str, function: str, given: Dict[str, str]
) -> Dict[str, Any]:
    """What the plugin's `function` answers on a host, by its ref. Raises RemoteFailure."""
    try:
        return json.loads(session.xenapi.host.call_plugin(host, "sxm.py", function, given))
    except XenAPI.Failure as failure:
        raise RemoteFailure([str(detail) for detail in failure.details])
