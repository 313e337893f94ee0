# SPDX-License-Identifier: LGPL-2.1-only
"""What the logs of both hosts have of one migration, in the order of time."""

from typing import Any, Dict, List, Optional, Tuple

import XenAPI

from storage_motion.cli import names, pools
from storage_motion.cli.command import Invocation
from storage_motion.errors import MotionError


def of(
    run: Invocation, status: Dict[str, Any], remote_password_file: Optional[str]
) -> List[Dict[str, str]]:
    """[{"time", "host", "by", "level", "text"}] of a migration, by what the plugin's `status` has
    of it. A host that cannot be asked is warned of."""
    lines: List[Dict[str, str]] = []
    for name, uuid, master in _hosts(status):
        try:
            pool = _pool(run, master, remote_password_file)
            answer = pool.plugin_on(
                names.host(pool, uuid).ref, "log", migration=status["migration"]
            )
        except XenAPI.Failure as failure:
            run.out.warning("no log of host %s: %s" % (name, " ".join(map(str, failure.details))))
            continue
        except (MotionError, OSError) as error:
            run.out.warning("no log of host %s: %s" % (name, error))
            continue
        if answer["cut"]:
            run.out.warning("the log of host %s has more, before these lines" % name)
        lines += [dict(line, host=name) for line in answer["lines"]]
    return sorted(lines, key=lambda line: line["time"])


def _hosts(status: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """(name, UUID, the other pool's master or "") of each host that has a part in it, once."""
    found = [
        (status["source_host"], status["source_host_uuid"], ""),
        (status["destination_host"], status["destination_host_uuid"], status["destination_master"]),
    ]
    return found[:1] if found[0][1] == found[1][1] else found


def _pool(run: Invocation, master: str, remote_password_file: Optional[str]) -> pools.Pool:
    if not master:
        return run.pool
    configured = pools.configuration().pools.values()
    known = [one for one in configured if one.url == master]
    one = known[0] if known else pools.Known(master, master)
    return run.connect_other(one, remote_password_file)
