# SPDX-License-Identifier: LGPL-2.1-only
"""Lets the movers of the other pool in to a receiver: dom0's firewall admits only the ports that it
was told of.

On XCP-ng 8.3 and XenServer 8 it is xapi's script `firewall-port` over iptables, which keeps a rule
over a reboot; from XenServer 9 on, firewalld, whose rules of ours end with a reboot (xen-api:
scripts/plugins/firewall-port, ocaml/xapi/firewall.ml). A host with neither has no firewall that we
know.
"""

import os
import time
from typing import Dict, List, Optional, Tuple

from storage_motion.dom0 import programs, root
from storage_motion.errors import FirewallFailed

FIREWALLD = "/usr/bin/firewall-cmd"
IPTABLES = "/etc/xapi.d/plugins/firewall-port"
TIMEOUT = 20.0
TRIES = 5  # iptables refuses while somebody else changes its rules
WAIT = 0.5


def open_port(port: int) -> None:
    """Admit TCP connections to `port`. Idempotent. Raises FirewallFailed."""
    _tell({FIREWALLD: ["--add-port=%d/tcp" % port], IPTABLES: ["open", str(port), "tcp"]})


def close_port(port: int) -> None:
    """Admit none any more. Idempotent: a port that is closed stays closed. Raises
    FirewallFailed."""
    _tell({FIREWALLD: ["--remove-port=%d/tcp" % port], IPTABLES: ["close", str(port), "tcp"]})


def _tell(arguments: Dict[str, List[str]]) -> None:
    program = _firewall()
    if program is None:
        return
    for left in reversed(range(TRIES)):
        status, said = _run([root.path(program)] + arguments[program])
        if status == 0:
            return
        if not left:
            raise FirewallFailed(" ".join([program] + arguments[program]), said)
        time.sleep(WAIT)


def _firewall() -> Optional[str]:
    """The program that this host's firewall is told by, or None. firewalld may be installed and not
    run."""
    if os.access(root.path(FIREWALLD), os.X_OK) and _run([root.path(FIREWALLD), "--state"])[0] == 0:
        return FIREWALLD
    return IPTABLES if os.access(root.path(IPTABLES), os.X_OK) else None


def _run(command: List[str]) -> Tuple[Optional[int], str]:
    """(exit status, what it said). Status None: it did not end in time."""
    status, out, err = programs.run(command, TIMEOUT)
    if status is None:
        return None, "did not end within %g s" % TIMEOUT
    return status, (out + err).strip()[-500:]
