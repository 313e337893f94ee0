# SPDX-License-Identifier: LGPL-2.1-only
"""Which host of the destination the VM goes to, and by which of its addresses the data come."""

from typing import Any, Dict, Iterable, Optional, Tuple

from storage_motion.plan import checks
from storage_motion.plan.inquiry import Inquiry


def find_host(
    inquiry: Inquiry, srs: Iterable[str]
) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
    """(ref, record) of the destination host."""
    request, hosts = inquiry.request, inquiry.destination.all("host")
    if request.host:
        fields = () if request.host_argument == "host-uuid" else ("name_label", "hostname")
        found = inquiry.destination.named("host", request.host, *fields)
        if len(found) != 1:
            inquiry.problems.add(
                request.host_argument,
                "%s host %r at the destination"
                % ("more than one" if found else "no", request.host),
                "one of %s" % ", ".join(sorted(host["name_label"] for host in hosts.values())),
            )
            return None, None
    elif not inquiry.cross_pool:
        found = [(inquiry.here, hosts[inquiry.here])]
    else:
        found = [
            (ref, host)
            for ref, host in sorted(hosts.items(), key=lambda entry: entry[1]["name_label"])
            if checks.usable(inquiry.destination, host)
            and all(
                checks.plugged(inquiry.destination, inquiry.destination.of("SR", sr), ref)
                for sr in srs
            )
        ]
        if not found:
            inquiry.problems.add(
                "host",
                "no host at the destination is enabled and sees all SRs that the disks go to",
                "plug the SRs on one host, or name SRs that one sees",
            )
            return None, None
    ref, host = found[0]
    if not checks.usable(inquiry.destination, host):
        inquiry.problems.add(
            request.host_argument,
            "host %s is disabled or not alive" % host["name_label"],
            "another host",
        )
    return ref, host


def data_network(
    inquiry: Inquiry, host_ref: Optional[str], host: Optional[Dict[str, Any]]
) -> Tuple[str, str]:
    """(UUID, the host's address) of the network that the bytes take."""
    if not host_ref or not host:
        return "", ""
    argument, text = "remote-network", inquiry.request.network
    if text:
        networks = inquiry.destination.named("network", text, "name_label", "bridge")
        if len(networks) != 1:
            inquiry.problems.add(
                argument,
                "%s network %r at the destination" % ("more than one" if networks else "no", text),
                "its UUID, name or bridge",
            )
            return "", ""
        wanted = networks[0][0]
    pifs = [
        pif for _, pif in sorted(inquiry.destination.all("PIF").items()) if pif["host"] == host_ref
    ]
    pifs = [pif for pif in pifs if (pif["network"] == wanted if text else pif["management"])]
    if pifs and not pifs[0]["IP"] and pifs[0].get("IPv6"):
        inquiry.problems.add(
            argument,
            "host %s has only IPv6 addresses on %s, and the data takes IPv4"
            % (host["name_label"], text or "its management network"),
            "a network on which it has an IPv4 address",
        )
        return "", ""
    if not pifs or not pifs[0]["IP"]:
        inquiry.problems.add(
            argument,
            "host %s has no address on %s" % (host["name_label"], text or "a management network"),
            "a network on which it has one",
        )
        return "", ""
    return inquiry.destination.of("network", pifs[0]["network"])["uuid"], pifs[0]["IP"]
