# SPDX-License-Identifier: LGPL-2.1-only
"""How much memory of a host VMs may still have, by what is noted of them (memory_check.ml). What a
VM needs beside its own memory the lab does not know."""

from lab.xapi.failures import Failure

TOTAL = 16 << 30  # bytes of a host of the lab


def give(database, host):
    """A host has its memory, which nothing on disk says."""
    if not database.exists("host_metrics", database.get("host", host, "metrics")):
        database.set(
            "host",
            host,
            metrics=database.create("host_metrics", {"memory_total": TOTAL, "live": True}),
        )


def free(database, host, vm=None):
    """Bytes. What is reserved for `vm` is counted as free; what it has there now is not."""
    total = int(database.get("host_metrics", database.get("host", host, "metrics"), "memory_total"))
    taken = database.where("VM", resident_on=host) + [
        one for one in database.where("VM", scheduled_to_be_resident_on=host) if one != vm
    ]
    used = sum(
        int(database.get("VM", one, field))
        for one in taken
        for field in ("memory_dynamic_min", "memory_overhead")
    )
    return max(0, total - int(database.get("host", host, "memory_overhead")) - used)


def require(database, host, record, vm=None):
    """Raises HOST_NOT_ENOUGH_FREE_MEMORY [needed, free] if that host has none for a VM (`record`);
    `vm`: its ref, if it is one of this pool."""
    needed, there = int(record["memory_dynamic_min"]), free(database, host, vm)
    if there < needed:
        raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", needed, there)
