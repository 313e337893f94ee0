# SPDX-License-Identifier: LGPL-2.1-only
"""High availability (HA) leaves a VM alone while it is moved, and protects it again afterwards.

xapi's HA starts what is halted and protected (xapi_ha_vm_failover.ml, restart_auto_run_vms). Under
way the VM is halted in the records of either pool for a while. So its protection is in the journal
until the end, and in no pool's database: the exported VM has none, either.

Whatever protection is found at the source is taken off, and is what the VM gets at the end: that
of the beginning, one that an older database has brought back, or another one that somebody has set
meanwhile.

Of a VM that is copied nothing is taken off: it is halted and stays so. HA starts only what is to be
kept running (ha_always_run): such a VM is refused where HA is on (plan/checks.py), and its copy is
not to be (remap.py).
"""

from typing import TYPE_CHECKING, List

import XenAPI

from storage_motion.xapi import repeated
from storage_motion.xapi.records import UNKNOWN, Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

FIELD = "ha_restart_priority"  # of the journal, and of a VM: "", "best-effort" or "restart"
RESTART = "restart"
COMMAND = "xe vm-param-set uuid=%s ha-restart-priority=%s"


def take_off(m: "Migration") -> None:
    """Have HA restart the VM nowhere. What it would have done is in the journal before."""
    if m.plan.copy:
        return
    vm = m.vm()
    priority = m.source.xenapi.VM.get_ha_restart_priority(vm)
    if priority:
        if priority != m.entry.get(FIELD):
            m.note(ha_restart_priority=priority)
        m.source.xenapi.VM.set_ha_restart_priority(vm, "")


def found_again(m: "Migration") -> List[str]:
    """Whether HA protects the VM at the source, again or still: a list, in words."""
    priority = m.source.xenapi.VM.get_ha_restart_priority(m.vm())
    return ["that HA (%s) leaves the VM alone" % priority] if priority else []


def give_back(m: "Migration", session: "XenAPI.Session", vm: str) -> None:
    """Have HA protect the VM (a ref) in the pool of `session` as it did, unless somebody has set
    there what it shall do. If xapi refuses, that is a warning: the VM is where it should be."""
    priority = m.entry.get(FIELD)
    if not priority:
        return
    if not session.xenapi.VM.get_ha_restart_priority(vm):
        try:
            session.xenapi.VM.set_ha_restart_priority(vm, priority)
        except XenAPI.Failure as failure:
            if repeated.is_away(failure) or failure.details[0] in UNKNOWN:
                raise
            _warn_of_refusal(m, priority, failure)
            return
    if m.plan.live and priority == RESTART:
        _warn_if_halted(m, session, vm)


def lacking(m: "Migration", session: "XenAPI.Session", vm: str) -> List[str]:
    """Whether HA does not protect the VM (a ref) that it did protect: a list, in words."""
    wanted = m.entry.get(FIELD)
    if wanted and not session.xenapi.VM.get_ha_restart_priority(vm):
        return ["its HA restart priority, %s, is not set" % wanted]
    return []


def _warn_of_refusal(m: "Migration", priority: str, failure: XenAPI.Failure) -> None:
    """With it is noted that there is nothing to give back any more, so that it is asked once."""
    m.warn(
        "HA does not protect VM %s any more: its restart priority was %s, and xapi refuses to set "
        "it again (%s); when it may be set: %s"
        % (
            m.plan.vm_name,
            priority,
            " ".join(str(detail) for detail in failure.details),
            COMMAND % (m.plan.vm, priority),
        ),
        ha_restart_priority="",
    )


def _warn_if_halted(m: "Migration", session: "XenAPI.Session", vm: str) -> None:
    """A VM that ran was marked as one that is to be kept running (ha_always_run). That mark went
    with the protection, and only a start of it sets it again (xapi_vm.ml)."""
    api = session.xenapi.VM
    if (
        api.get_power_state(vm) == "Halted"
        and not api.get_ha_always_run(vm)
        and Records(session).pool()["ha_enabled"]
    ):
        m.warn(
            "VM %s is halted, and HA starts it by itself only after it has been started once: "
            "xe vm-start uuid=%s" % (m.plan.vm_name, m.plan.vm)
        )
