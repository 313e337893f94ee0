# SPDX-License-Identifier: LGPL-2.1-only
"""The network of each VIF at the destination: its own within a pool; between pools the one that
`vif:` gives, else the one that has the name of its own."""

from typing import Any, Dict, List, Optional

from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Vif


def find_networks(
    inquiry: Inquiry, host_ref: Optional[str], host: Optional[Dict[str, Any]]
) -> List[Vif]:
    """The VIFs that get a network, with it; `host_ref`, `host`: the destination host, which has to
    have it."""
    records = [inquiry.source.of("VIF", ref) for ref in inquiry.vm["VIFs"]]
    find = network_there if inquiry.cross_pool else _network_here
    found = [(vif, find(inquiry, vif)) for vif in sorted(records, key=lambda vif: vif["device"])]
    for vif, network in found:
        if network and host_ref and host:
            _reachable(inquiry, vif, network, host_ref, host)
    return [
        Vif(vif=vif["uuid"], device=vif["device"], network=network["uuid"])
        for vif, network in found
        if network
    ]


def notes(inquiry: Inquiry, interfaces: List[Vif]) -> List[str]:
    """The networks that nobody has named, for whoever asked: pools may call different networks by
    the same name. A list of sentences, one for each network, the same for every VM."""
    if not inquiry.cross_pool:
        return []
    said = [
        "what is on network %s goes to the destination's network of that name (%s); "
        "vif:<VIF>=<network> names another (sxm: --network FROM=TO)"
        % (inquiry.destination.by_uuid("network", vif.network)[1]["name_label"], vif.network)
        for vif in interfaces
        if vif.vif not in inquiry.request.vifs
    ]
    return sorted(set(said))


def network_there(inquiry: Inquiry, vif: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The network (its record) of an interface (its record) in another pool. That there is none is
    a problem."""
    argument, given = "vif:" + vif["uuid"], inquiry.request.vifs.get(vif["uuid"])
    if not given:
        return _namesake(inquiry, argument, vif)
    network = inquiry.destination.by_uuid("network", given)[1]
    if network:
        return network
    other = inquiry.destination.by_uuid("VIF", given)[1]
    if other:
        return inquiry.destination.of("network", other["network"])
    inquiry.problems.add(
        argument,
        "neither a network nor a VIF of the destination is %s" % given,
        "the UUID of a network there, or of a VIF whose network is meant",
    )
    return None


def _namesake(inquiry: Inquiry, argument: str, vif: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The one network of the destination that is called as the interface's is."""
    name = inquiry.source.of("network", vif["network"])["name_label"]
    found = [
        network
        for network in inquiry.destination.all("network").values()
        if network["name_label"] == name
    ]
    if name and len(found) == 1:
        return found[0]
    inquiry.problems.add(
        argument,
        "interface %s (%s) has no network to go to, as the destination has %s network called %r"
        % (vif["device"], vif["MAC"], "more than one" if name and found else "no", name),
        "give vif:%s=<network>" % vif["uuid"],
    )
    return None


def _network_here(inquiry: Inquiry, vif: Dict[str, Any]) -> Dict[str, Any]:
    network = inquiry.source.of("network", vif["network"])
    given = inquiry.request.vifs.get(vif["uuid"])
    if given and given not in (network["uuid"], vif["uuid"]):
        inquiry.problems.add(
            "vif:" + vif["uuid"],
            "interfaces keep their networks in a move within the pool",
            "leave it out",
        )
    return network


def _reachable(
    inquiry: Inquiry,
    vif: Dict[str, Any],
    network: Dict[str, Any],
    host_ref: str,
    host: Dict[str, Any],
) -> None:
    """A network with PIFs must have one on the destination host; one without is the pool's own,
    and is everywhere."""
    pifs = [inquiry.destination.of("PIF", ref) for ref in network["PIFs"]]
    if pifs and not any(pif and pif["host"] == host_ref for pif in pifs):
        inquiry.problems.add(
            "vif:" + vif["uuid"],
            "network %s (%s) is not on host %s"
            % (network["uuid"], network["name_label"], host["name_label"]),
            "a network of that host",
        )
