# SPDX-License-Identifier: LGPL-2.1-only
"""All calls that this xapi knows: importing this registers them."""

from lab.xapi import (  # noqa: F401
    accessors,
    blobs,
    calls,
    devices,
    events,
    gpus,
    ha,
    host,
    messages,
    networks,
    plugins,
    sessions,
    sr,
    suspend,
    sync,
    tasks,
    tracking,
    vdi,
    verdict,
    vm,
    vm_snapshots,
    vtpm,
)

accessors.register()
calls.refuse_the_rest()
