# SPDX-License-Identifier: LGPL-2.1-only
"""Storage XenMotion itself on the hosts that a migration needs: it has to be on each, whole, and of
one version.

What the hosts tell one another has no versions of its own: a host of another version is not asked
for anything else.
"""

import json
import os
import re
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

import XenAPI

import storage_motion
from storage_motion.dom0 import blktap, root
from storage_motion.errors import Refused
from storage_motion.plan.plan import Plan
from storage_motion.sm import smapi
from storage_motion.xapi import repeated
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Migration, Problems

FUNCTION = "installed"
DRIVER_VERSION = re.compile(r'^VERSION = "(.+)"$', re.M)  # in drivers/MirrorSR.py
MISSING, UNKNOWN = "XENAPI_MISSING_PLUGIN", "UNKNOWN_XENAPI_PLUGIN_FUNCTION"
RIGHT = "install version %s on every host of both pools" % storage_motion.__version__


def here(
    _session: Optional["XenAPI.Session"] = None, _given: Optional[Dict[str, str]] = None
) -> Dict[str, Any]:
    """What other hosts ask: {"driver": whether MirrorSR is there, "driver_version": its own, or
    None, "blktap": its version or None, "qcow2_safe": whether that is known to be safe for QCOW2};
    the plugin adds its own version."""
    driver = "%s/MirrorSR" % root.path(smapi.DRIVERS)
    return {
        "driver": os.access(driver, os.X_OK),
        "driver_version": _version_of(driver),
        "blktap": blktap.version(),
        "qcow2_safe": blktap.is_safe_for_qcow2(),
    }


def _version_of(driver: str) -> Optional[str]:
    """What the file of a driver says of itself: it is not run for that."""
    try:
        with open(driver, encoding="utf-8", errors="replace") as source:
            found = DRIVER_VERSION.search(source.read())
    except OSError:
        return None
    return found and found.group(1)


def require(
    source: Records, destination: Records, plan: Plan, problems: "Problems"
) -> Dict[str, Dict[str, Any]]:
    """Look on every host that the migration needs, before anything begins: this one, the
    destination, and both masters, whose databases are asked about. `source`, `destination`: Records
    of the pools, the same object for a move within one. What is wrong goes to `problems`.

    Returns what each host says of itself: {uuid: as `here` answers}."""
    said: Dict[str, Dict[str, Any]] = {}
    there = destination.ref("host", plan.destination_host)
    asked = [
        (source, source.ref("host", plan.source_host), "vm"),
        (source, source.pool()["master"], "vm"),
        (
            destination,
            destination.pool()["master"],
            "remote-master" if destination is not source else "vm",
        ),
        (destination, there, "host"),
    ]
    for number, (records, host, argument) in enumerate(asked):
        if (records, host) not in [one[:2] for one in asked[:number]]:
            record = records.of("host", host)
            found, said[record["uuid"]] = _asked(records.session, host)
            if found:
                problems.add(argument, "host %s %s" % (record["name_label"], found), RIGHT)
    return said


def require_again(m: "Migration") -> None:
    """At the destination once more, before the VM moves, and here: hours may have passed. A xapi
    that is just being restarted is waited for. Raises Refused."""
    mine = _whole(dict(here(), version=storage_motion.__version__))  # the driver is run from disk
    if mine:
        raise Refused(
            "host %s cannot send VM %s" % (m.plan.source_host_name, m.plan.vm_name),
            "it " + mine,
            RIGHT,
        )

    def look() -> Optional[str]:
        try:
            return _whole(_ask(m.destination, m.host()))
        except XenAPI.Failure as failure:
            if repeated.is_away(failure):
                raise
            return _refusal(failure)

    found = repeated.done(m, look, "the question for its version")
    if found:
        raise Refused(
            "host %s does not take VM %s" % (m.plan.destination_host_name, m.plan.vm_name),
            "it " + found,
            RIGHT,
        )


def _asked(session: "XenAPI.Session", host: str) -> Tuple[Optional[str], Dict[str, Any]]:
    """(what is wrong with it on a host (a ref), as "has no ...", or None; what that says of
    itself)"""
    try:
        answer = _ask(session, host)
        return _whole(answer), answer
    except XenAPI.Failure as failure:
        return _refusal(failure), {}


def _ask(session: "XenAPI.Session", host: str) -> Dict[str, Any]:
    return json.loads(session.xenapi.host.call_plugin(host, "sxm.py", FUNCTION, {}))


def _refusal(failure: "XenAPI.Failure") -> str:
    details = [str(detail) for detail in failure.details]
    if details[0] == MISSING:
        return "has no Storage XenMotion"
    if UNKNOWN in details:
        return (
            "has an older version of Storage XenMotion, and this one is %s"
            % storage_motion.__version__
        )
    return "does not say which Storage XenMotion it has: %s" % " ".join(details[:2])


def _whole(answer: Dict[str, Any]) -> Optional[str]:
    if answer.get("version") != storage_motion.__version__:
        return "has version %s of Storage XenMotion, and this one is %s" % (
            answer.get("version"),
            storage_motion.__version__,
        )
    if not answer.get("driver"):
        return "has no driver MirrorSR in %s" % smapi.DRIVERS
    if answer.get("driver_version") != storage_motion.__version__:
        return "has a driver MirrorSR of version %s, and this one is %s" % (
            answer.get("driver_version"),
            storage_motion.__version__,
        )
    return None
