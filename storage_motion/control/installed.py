"""Storage XenMotion itself on the hosts that a migration needs: it has to be on each, whole, and of one version.

What the hosts tell one another has no versions of its own: a host of another version is not asked for anything else.
"""
import json
import os

import XenAPI

import storage_motion
from storage_motion.control import again
from storage_motion.dom0 import blktap, root, smapi
from storage_motion.errors import Refused

FUNCTION = "installed"
MISSING, UNKNOWN = "XENAPI_MISSING_PLUGIN", "UNKNOWN_XENAPI_PLUGIN_FUNCTION"
RIGHT = "install version %s on every host of both pools" % storage_motion.__version__


def here(_session=None, _given=None):
    """What other hosts ask: {"driver": whether MirrorSR is there, "blktap": its version or None,
    "qcow2_safe": whether that is known to be safe for QCOW2}; the plugin adds its own version."""
    driver = os.access("%s/MirrorSR" % root.path(smapi.DRIVERS), os.X_OK)
    return {"driver": driver, "blktap": blktap.version(), "qcow2_safe": blktap.is_safe_for_qcow2()}


def require(source, destination, plan, problems):
    """Look on every host that the migration needs, before anything begins: this one, the destination, and both masters, whose databases
    are asked about. `source`, `destination`: Records of the pools, the same object for a move
    within one. What is wrong goes to `problems`.

    Returns what each host says of itself: {uuid: as `here` answers}."""
    said = {}
    there = destination.ref("host", plan.destination_host)
    asked = [(source, source.ref("host", plan.source_host), "vm"), (source, source.pool()["master"], "vm"),
             (destination, destination.pool()["master"], "remote-master" if destination is not source else "vm"), (destination, there, "host")]
    for number, (records, host, argument) in enumerate(asked):
        if (records, host) not in [one[:2] for one in asked[:number]]:
            record = records.of("host", host)
            found, said[record["uuid"]] = _asked(records.session, host)
            if found:
                problems.add(argument, "host %s %s" % (record["name_label"], found), RIGHT)
    return said


def require_again(m):
    """At the destination once more, before the VM moves: hours may have passed. A xapi that is just being restarted is waited for. Raises
    Refused."""
    def look():
        try:
            return _whole(_ask(m.destination, m.host()))
        except XenAPI.Failure as failure:
            if again.is_away(failure):
                raise
            return _refusal(failure)
    found = again.done(m, look, "the question for its version")
    if found:
        raise Refused("host %s does not take VM %s" % (m.plan.destination_host_name, m.plan.vm_name), "it " + found, RIGHT)


def _asked(session, host):
    """(what is wrong with it on a host (a ref), as "has no ...", or None; what that says of
    itself)"""
    try:
        answer = _ask(session, host)
        return _whole(answer), answer
    except XenAPI.Failure as failure:
        return _refusal(failure), {}


def _ask(session, host):
    return json.loads(session.xenapi.host.call_plugin(host, "sxm.py", FUNCTION, {}))


def _refusal(failure):
    details = [str(detail) for detail in failure.details]
    if details[0] == MISSING:
        return "has no Storage XenMotion"
    if UNKNOWN in details:
        return "has an older version of Storage XenMotion, and this one is %s" % storage_motion.__version__
    return "does not say which Storage XenMotion it has: %s" % " ".join(details[:2])


def _whole(answer):
    if answer.get("version") != storage_motion.__version__:
        return "has version %s of Storage XenMotion, and this one is %s" % (answer.get("version"), storage_motion.__version__)
    return None if answer.get("driver") else "has no driver MirrorSR in %s" % smapi.DRIVERS
