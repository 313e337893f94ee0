# SPDX-License-Identifier: LGPL-2.1-only
"""The checks, in the order in which they are told."""

from typing import Callable, Iterator, List, NamedTuple

from storage_motion.cli.doctor import hosts, leftovers, reachability, storage
from storage_motion.cli.doctor.findings import OK, PROBLEM, WARNING, Finding
from storage_motion.cli.doctor.looking import Seen
from storage_motion.cli.doctor.reachability import Try


class OfPool(NamedTuple):
    """Looks at one pool. `fine`: what is said where it has found nothing."""

    name: str
    look: Callable[[Seen], Iterator[Finding]]
    fine: str


class OfAll(NamedTuple):
    """Looks at all pools that were asked for."""

    name: str
    look: Callable[[List[Seen]], Iterator[Finding]]
    fine: str


OF_POOL = (
    OfPool("hosts", hosts.enabled, "all hosts are up and enabled"),
    OfPool("plugin", hosts.plugin, "Storage XenMotion answers on every host"),
    OfPool("plugin", hosts.whole, "it is whole on every host"),
    OfPool("software", hosts.software, "no host tells its versions"),
    OfPool("software", hosts.qcow2, "nothing is in the way of QCOW2"),
    OfPool("certificates", hosts.certificates, "all hosts' are valid"),
    OfPool("journals", hosts.room, "there is room for them on every host"),
    OfPool("HA", hosts.high_availability, "HA is off"),
    OfPool("SRs", storage.formats, "there are none"),
    OfPool("SRs", storage.room, "none is full"),
    OfPool("SRs", storage.plugged, "all are plugged"),
    OfPool("SM", storage.sm_marks, "it has left nothing"),
)
OF_ALL = (
    OfAll("version", hosts.same_version, "the hosts and sxm have the same"),
    OfAll("clocks", hosts.clocks, "they agree"),
    OfAll("leftovers", leftovers.journals, "no migration is without an end"),
    OfAll("leftovers", leftovers.marks, "no mark of an earlier migration is left"),
    OfAll("leftovers", leftovers.read, "no disk is left open"),
)
OF_TWO = (OfAll("platform", hosts.platforms, "the second is not older than the first"),)


def judged(pools: List[Seen], tries: List[Try]) -> List[Finding]:
    """What all checks find in the pools that answered, and of what the hosts tried."""
    found: List[Finding] = []
    for seen in pools:
        for check in OF_POOL:
            found += _named(check.name, check.fine, "pool %s" % seen.name, check.look(seen))
    for of_all in OF_ALL + (OF_TWO if len(pools) == 2 else ()) if pools else ():
        where = hosts.pools_in_words(pools)
        found += _named(of_all.name, of_all.fine, where, of_all.look(pools))
    if tries:
        where = hosts.pools_in_words(pools)
        found += _named("ports", "the hosts reach one another", where, ports(tries))
    return found


def _named(name: str, fine: str, where: str, found: Iterator[Finding]) -> List[Finding]:
    listed = list(found) or [Finding(OK, fine, where)]
    return [one._replace(check=name) for one in listed]


# what a try has found -> what that means
MEANING = {
    "refused": "is refused",
    "silent": "gets no answer",
    "unreachable": "is rejected on its way",
    "other": "is answered by somebody else",
}
KINDS = {reachability.RECEIVER: "a port as receivers have it", reachability.XAPI_NAME: "port 443"}
RANGES = {reachability.RECEIVER: "TCP ports %d to %d", reachability.XAPI_NAME: "TCP port 443"}


def ports(tries: List[Try]) -> Iterator[Finding]:
    """The hosts that do not reach one another."""
    for one in tries:
        source, there = one.source, one.destination
        where = source.seen.where("host", source.ref)
        goal = "%s (%s)" % (there.seen.where("host", there.ref), there.address)
        if one.why:
            yield Finding(
                WARNING,
                "whether it reaches %s could not be tried: %s" % (goal, one.why),
                where,
                "run sxm doctor again",
            )
        elif one.found != "open":
            first, last = there.seen.facts[there.ref]["ports"]
            which = RANGES[one.kind]
            yield Finding(
                PROBLEM,
                "%s of %s %s" % (KINDS[one.kind], goal, MEANING.get(one.found, one.found)),
                where,
                "let %s through from %s to %s in what is between them; dom0's own firewall opens "
                "by itself while a VM is received"
                % (which % (first, last) if "%" in which else which, source.address, there.address),
            )
