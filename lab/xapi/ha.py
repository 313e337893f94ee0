# SPDX-License-Identifier: LGPL-2.1-only
"""High availability (HA): which VMs are protected, and that those which are halted are started.

A test turns it on by a key of the pool's other_config, SWITCH, which is the lab's own. What
`pool.enable_ha` takes beside that the lab has not: a statefile, a daemon that fences; nor does it
take a host for failed. The rest is as in xapi_ha.ml and xapi_ha_vm_failover.ml.
"""

import logging
import threading
import time

from lab.xapi import ha_plan, messages, vm as vms, xapi_conf
from lab.xapi.calls import call
from lab.xapi.context import Context
from lab.xapi.failures import Failure

SWITCH = "lab-ha"
INTERVAL = "ha_monitor_interval"  # of xapi.conf
_INTERVAL = 20.0  # seconds
AGAIN = 120.0  # seconds after which a VM that could not be started is tried again
_BEST_EFFORT_RETRIES = 2
_FAILED = ("HA_PROTECTED_VM_RESTART_FAILED", 2)  # api_messages.ml

log = logging.getLogger("xapi.ha")


@call("VM.set_ha_restart_priority", "self:ref(VM) value:string", is_async=False)
def set_ha_restart_priority(context, self, value):
    """Raises INVALID_VALUE; and HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN for a VM that is not halted,
    if HA could not restart it, or another one, any more. Of a running VM ha_always_run goes along;
    a halted one's stays as it is."""
    if value not in ha_plan.PRIORITIES:
        raise Failure("INVALID_VALUE", "ha_restart_priority", value)
    database = context.database
    with database.lock:
        record = database.record("VM", self)
        current = record["ha_restart_priority"]
        if value == ha_plan.RESTART and current != value:
            if record["power_state"] != "Halted":
                ha_plan.require(database, extra=(self,))
            if database.get("pool", context.pool.ref, "ha_enabled"):
                ha_plan.update_status(database)
        if value != current:
            database.set("VM", self, ha_restart_priority=value)
            if record["power_state"] == "Running":
                database.set("VM", self, ha_always_run=value == ha_plan.RESTART)


@call("VM.set_ha_always_run", "self:ref(VM) value:bool", is_async=False)
def set_ha_always_run(context, self, value):
    """What xapi has left of it since there are priorities."""
    set_ha_restart_priority(context, self, ha_plan.RESTART if value else "")


@call("pool.set_ha_host_failures_to_tolerate", "self:ref(pool) value:int", is_async=True)
def set_ha_host_failures_to_tolerate(context, self, value):
    """Raises INVALID_VALUE for less than none, and HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN where
    there is a plan for some failures, and would be none for so many."""
    if value < 0:
        raise Failure("INVALID_VALUE", "ha_host_failures_to_tolerate", value)
    database = context.database
    with database.lock:
        if database.get("pool", context.pool.ref, "ha_plan_exists_for") > 0:
            ha_plan.require(database, failures=value)
        database.set("pool", self, ha_host_failures_to_tolerate=value)
        ha_plan.update_status(database)


class Monitor:
    """The thread of the pool's master that starts VMs, while HA is enabled."""

    def __init__(self, pool):
        self._pool, self._database = pool, pool.database
        self._thread = None
        self._attempts = {}  # VM: when it was last tried
        self._told = set()  # VMs of whose failure is told
        self._best_effort = None  # {VM: failures} of those to be tried; None: all that are halted

    def watch(self):
        """Begin, and end, as the pool's switch says."""
        self._database.on_change("pool", ("other_config",), self._look)
        self._look(self._pool.ref)

    def _look(self, ref):
        with self._database.lock:
            enabled = SWITCH in self._database.get("pool", ref, "other_config")
            if enabled and not self._database.get("pool", ref, "ha_enabled"):
                self._database.set("pool", ref, ha_plan_exists_for=0)
                ha_plan.update_status(self._database)
            self._database.set("pool", ref, ha_enabled=enabled)
            if enabled and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ha", daemon=True)
                self._thread.start()

    def _run(self):
        interval = float(xapi_conf.read(self._pool.config.root).get(INTERVAL, _INTERVAL))
        self._best_effort = None
        log.info("HA looks every %g s", interval)
        while not self._pool.stopping.wait(interval):
            with self._database.lock:
                if not self._database.get("pool", self._pool.ref, "ha_enabled"):
                    self._thread = None
                    return
            try:
                self._restart()
            except Exception:  # as xapi's: the next look may go well
                log.exception("HA: caught unexpected exception when executing restart plan")

    def _restart(self):
        """One look (restart_auto_run_vms)."""
        with self._database.lock:
            wanted = int(self._database.get("pool", self._pool.ref, "ha_host_failures_to_tolerate"))
            plan = ha_plan.compute(self._database, wanted)
            vms_now = self._database.records("VM")
        starts = plan.starts
        if plan.unplaced:
            starts = {
                vm: None
                for vm, record in vms_now.items()
                if ha_plan.is_protected(record) and record["power_state"] == "Halted"
            }
        failed = [
            vm
            for vm in sorted(starts, key=lambda vm: _order(vms_now[vm]))
            if not self._try(vm, starts[vm])
        ]
        for vm in failed:
            self._tell(vm)
        self._attempts = {vm: at for vm, at in self._attempts.items() if vm in starts}
        self._told &= set(starts)
        if failed:
            self._best_effort = {}
        else:
            self._restart_best_effort(vms_now)

    def _try(self, vm, host):
        last = self._attempts.get(vm)
        if last is not None and time.monotonic() - last <= AGAIN:
            return False
        self._attempts[vm] = time.monotonic()
        return self._start(vm, host)

    def _restart_best_effort(self, vms_now):
        """All that are halted, at the first look; later those that could not be started then."""
        tried = self._best_effort
        found = {
            vm: (tried or {}).get(vm, 0)
            for vm, record in vms_now.items()
            if record["ha_restart_priority"] == ha_plan.BEST_EFFORT
            and record["power_state"] == "Halted"
            and (tried is None or vm in tried)
        }
        self._best_effort = {
            vm: failures + 1
            for vm, failures in sorted(found.items(), key=lambda item: _order(vms_now[item[0]]))
            if not self._start(vm, None) and failures < _BEST_EFFORT_RETRIES
        }

    def _start(self, vm, host):
        """Whether that VM was started, on that host or, where it is None, on any."""
        task = self._pool.tasks.create("Async.VM.start", host=self._pool.own_host)
        context = Context(self._pool, local=True, task=task)
        try:
            log.info("HA: VM %s is to be started", self._database.get("VM", vm, "uuid"))
            if host is None:
                vms.start(context, vm, False, True)
            else:
                vms.start_on(context, vm, host, False, True)
            return True
        except Failure as failure:
            log.warning("HA: caught exception trying to restart VM %s: %s", vm, failure)
            return False
        finally:
            self._database.destroy("task", task)

    def _tell(self, vm):
        """Once of each failure."""
        if vm in self._told or not self._database.exists("VM", vm):
            return
        self._told.add(vm)
        uuid = self._database.get("VM", vm, "uuid")
        messages.create(Context(self._pool, local=True), *_FAILED, "VM", uuid, "")


def _order(record):
    """By its start order; without one it is the last."""
    return (record["order"] < 0, record["order"])
