# SPDX-License-Identifier: LGPL-2.1-only
"""Whether the hosts reach one another: each listens for a moment as a receiver does, and those that
would send to it try."""

import json
import secrets
import urllib.parse
from typing import Any, Dict, List, NamedTuple, Tuple

from storage_motion.cli.doctor.looking import Seen, each
from storage_motion.cli.pools import Pool

LISTENS, REACHES = "doctor-listen", "doctor-reach"
XAPI = 443
XAPI_NAME, RECEIVER = "xapi", "receiver"
TIMEOUT = 60.0  # seconds: they listen for 25, and a busy host is slow to begin


class Node(NamedTuple):
    """A host that answers: `pool`, which `seen` was seen of."""

    pool: Pool
    seen: Seen
    ref: str

    @property
    def address(self) -> str:
        address: str = self.seen.view.of("host", self.ref)["address"]
        return address


class Try(NamedTuple):
    """`kind`: what was tried, a receiver's port or xapi's; `found`: "open", "refused", "silent",
    "unreachable", "other", or "" where it could not be tried: `why`."""

    source: Node
    destination: Node
    kind: str
    port: int
    found: str
    why: str = ""


def nodes(pool: Pool, seen: Seen) -> List[Node]:
    """The hosts of a pool that can be asked."""
    return [Node(pool, seen, ref) for ref, _ in seen.hosts if ref in seen.facts]


def tried(here: List[Node], there: List[Node]) -> List[Try]:
    """Among the hosts of a pool, `here`; and from those to the ones of another, `there`."""
    pairs = [(one, other) for one in here for other in here + there if one is not other]
    goals = [node for node in here + there if any(other is node for _, other in pairs)]
    ports = _ports(goals)
    word = secrets.token_hex(16)
    jobs: List[Tuple[str, Node]] = [(LISTENS, node) for node in goals]
    jobs += [(REACHES, node) for node in here if any(one is node for one, _ in pairs)]
    targets = {
        node.ref: [
            (other, kind, port)
            for one, other in pairs
            if one is node
            for kind, port in _of(other, ports[other.ref])
        ]
        for node in here
    }

    def work(job: Tuple[str, Node]) -> Dict[str, Any]:
        function, node = job
        if function == REACHES:
            listed = [[other.address, port] for other, _, port in targets[node.ref]]
            return node.pool.plugin_on(node.ref, function, word=word, targets=json.dumps(listed))
        callers = sum(1 for _, other in pairs if other is node)
        return node.pool.plugin_on(
            node.ref, function, word=word, port=str(ports[node.ref]), expect=str(callers)
        )

    answers = each(work, jobs, TIMEOUT)
    deaf = {
        job[1].ref: ": ".join(failure) or "its port %d is in use" % ports[job[1].ref]
        for job, answer, failure in answers
        if job[0] == LISTENS and (failure or not answer["listened"])
    }
    found: List[Try] = []
    for (function, node), answer, failure in answers:
        if function == REACHES:
            said = answer["found"] if answer else [""] * len(targets[node.ref])
            for (other, kind, port), one in zip(targets[node.ref], said):
                why = ": ".join(failure) or (deaf.get(other.ref, "") if kind == RECEIVER else "")
                found.append(Try(node, other, kind, port, "" if why else one, why))
    return found


def _of(node: Node, port: int) -> List[Tuple[str, int]]:
    """[(kind, port)] to try. xapi's only where this machine has its pool by that port, too: else
    something between them leads it elsewhere."""
    own = urllib.parse.urlsplit(node.seen.url).port in (None, XAPI)
    return [(RECEIVER, port)] + ([(XAPI_NAME, XAPI)] if own else [])


def _ports(goals: List[Node]) -> Dict[str, int]:
    """{host's ref: a port that a receiver may get there}"""
    return {node.ref: node.seen.facts[node.ref]["port"] for node in goals}
