# SPDX-License-Identifier: LGPL-2.1-only
"""From a request to a plan: looks everything up in both pools, and names everything that is wrong
at once."""

from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Tuple

from storage_motion.plan import checks, room
from storage_motion.plan.plan import CROSS_POOL, IN_POOL, Cd, Disk, Plan, Vif
from storage_motion.xapi.records import NULL, Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Problems, Request

# Where a disk goes: (the argument that says so, the SR's ref, the VDI to fill or None)
Goal = Tuple[str, str, Optional[Dict[str, Any]]]
# A disk of the VM: its VBD's ref, its VBD, its VDI
Attached = Tuple[str, Dict[str, Any], Dict[str, Any]]


def find_vm(
    request: "Request", source: Records, problems: "Problems"
) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
    """(ref, record) of the VM that the request means in the pool of `source` (Records); (None,
    None) if it is not there."""
    if not request.vm:
        return None, None
    ref, record = source.by_uuid("VM", request.vm)
    if ref:
        return ref, record
    named = (
        []
        if request.vm_argument == "uuid"
        else source.session.xenapi.VM.get_by_name_label(request.vm)
    )
    records = [(ref, source.of("VM", ref)) for ref in named]
    records = [
        (ref, vm)
        for ref, vm in records
        if vm and not vm["is_a_snapshot"] and not vm["is_a_template"]
    ]
    if len(records) == 1:
        return records[0]
    if records:
        problems.add(
            request.vm_argument,
            "%d VMs are called %r" % (len(records), request.vm),
            "the UUID of one",
        )
    else:
        problems.add(
            request.vm_argument,
            "no VM %r in this pool" % request.vm,
            "the UUID or the name of a VM",
        )
    return None, None


def home(source: Records, vm: Dict[str, Any], default: Optional[str]) -> Optional[str]:
    """The ref of the host that the migration of a VM (its record) is run from.

    The one that it runs on; for a halted VM, one that sees all its disks, `default` (a ref) if that
    does. None if none does."""
    if vm["power_state"] != "Halted":
        return vm["resident_on"] if vm["resident_on"] != NULL else None
    srs = [source.of("SR", vdi["SR"]) for _, _, vdi in _disks(source, vm)]
    seers = [
        ref
        for ref, host in sorted(source.all("host").items())
        if usable(source, host) and all(checks.plugged(source, sr, ref) for sr in srs)
    ]
    return default if default in seers else next(iter(seers), None)


def make(
    request: "Request",
    source: Records,
    destination: Optional[Records],
    vm: Dict[str, Any],
    here: str,
    problems: "Problems",
) -> Optional[Plan]:
    """The Plan, or None if there are problems.

    `source`, `destination`: Records of the two pools, the same object for a move within one;
    `destination` is None if there is no session with it, which is a problem already. `vm`: its
    record; `here`: the ref of this host, which is its `home`."""
    return _Planner(request, source, destination, vm, here, problems).make()


def _disks(records: Records, vm: Dict[str, Any]) -> List[Attached]:
    """(VBD ref, VBD, VDI) of each disk of a VM that is there, in the order of its devices."""
    vbds = [(ref, records.of("VBD", ref)) for ref in vm["VBDs"]]
    found = [
        (ref, vbd, records.of("VDI", vbd["VDI"]))
        for ref, vbd in vbds
        if vbd and vbd["type"] != "CD" and not vbd["empty"]
    ]
    return sorted((entry for entry in found if entry[2]), key=lambda entry: entry[1]["userdevice"])


def usable(records: Records, host: Dict[str, Any]) -> bool:
    """Whether a host (its record) is enabled and alive."""
    metrics = records.of("host_metrics", host.get("metrics", NULL))
    return host["enabled"] and (metrics is None or metrics.get("live", True))


class _Planner:
    def __init__(
        self,
        request: "Request",
        source: Records,
        destination: Optional[Records],
        vm: Dict[str, Any],
        here: str,
        problems: "Problems",
    ) -> None:
        self.request = request
        self.here = here
        self.source = source
        self._destination = destination
        self.vm = vm
        self.problems = problems
        self.cross_pool = request.remote is not None
        self.sr_argument = "destination-sr-uuid"

    @property
    def destination(self) -> Records:
        """What `make` has seen to be there."""
        assert self._destination is not None
        return self._destination

    def make(self) -> Optional[Plan]:
        """All checks, in the order in which one builds on the other."""
        checks.check(
            checks.VM_CHECKS,
            self.problems,
            self.request.vm_argument,
            "VM %s" % self.vm["name_label"],
            self.vm,
        )
        if checks.CLAIM not in self.vm["other_config"]:
            checks.blocked(self.problems, self.request.vm_argument, self.vm)
        if self.request.live is False and self.vm["power_state"] == "Running":
            self.problems.add(
                "live",
                "is false, and VM %s runs" % self.vm["name_label"],
                "live=true, or shut it down first",
            )
        disks = _disks(self.source, self.vm)
        if len(disks) > checks.MAX_DISKS:
            self.problems.add(
                self.request.vm_argument,
                "has %d disks" % len(disks),
                "at most %d" % checks.MAX_DISKS,
            )
        if not disks:
            self.problems.add(self.request.vm_argument, "has no disks to move", "use xe vm-migrate")
        self._foreign_keys(disks)
        if self._destination is None:
            return None
        if self.cross_pool:
            self._other_pool()
        goals = self._goals(disks)
        host_ref, host = self._host([goal[1] for goal in goals.values() if goal])
        network, address = self._network(host_ref, host)
        moving, staying = self._moving(disks, goals, host_ref, host)
        vifs = self._vifs(host_ref, host)
        if self.problems:
            return None
        assert host_ref is not None and host is not None
        source_host = self.source.of("host", self.here)
        return Plan(
            kind=CROSS_POOL if self.cross_pool else IN_POOL,
            live=self.vm["power_state"] == "Running",
            vm=self.vm["uuid"],
            vm_name=self.vm["name_label"],
            source_host=source_host["uuid"],
            source_host_name=source_host["name_label"],
            destination_host=host["uuid"],
            destination_host_name=host["name_label"],
            master=self.request.remote.url if self.request.remote is not None else "",
            network=network,
            address=address,
            disks=sorted(moving, key=lambda disk: (disk.size, disk.device)),
            staying=staying,
            cds=self._cds(host_ref),
            vifs=vifs,
            check_cpu=not self.request.force and self.vm["power_state"] == "Running",
            compress=host["uuid"] != source_host["uuid"]
            and bool(self.source.pool().get("migration_compression")),
        )

    def _foreign_keys(self, disks: List[Attached]) -> None:
        keys = {vdi["uuid"] for _, _, vdi in disks}
        for uuid in sorted(set(self.request.vdis) - keys):
            self.problems.add(
                "vdi:" + uuid,
                "is not a disk of VM %s" % self.vm["name_label"],
                "its disks are %s" % (", ".join(sorted(keys)) or "none"),
            )
        for uuid in sorted(set(self.request.formats) - keys):
            self.problems.add(
                "image-format:" + uuid,
                "is not a disk of VM %s" % self.vm["name_label"],
                "its disks are %s" % (", ".join(sorted(keys)) or "none"),
            )
        vifs = {self.source.of("VIF", ref)["uuid"] for ref in self.vm["VIFs"]}
        for uuid in sorted(set(self.request.vifs) - vifs):
            self.problems.add(
                "vif:" + uuid,
                "is not an interface of VM %s" % self.vm["name_label"],
                "its interfaces are %s" % (", ".join(sorted(vifs)) or "none"),
            )

    def _other_pool(self) -> None:
        if self.source.pool()["uuid"] == self.destination.pool()["uuid"]:
            self.problems.add(
                "remote-master",
                "is the master of the VM's own pool",
                "another pool's, or leave remote-... out for a move within the pool",
            )
        elif self.destination.ref("VM", self.vm["uuid"]):
            self.problems.add(
                self.request.vm_argument,
                "the destination pool has a VM %s already" % self.vm["uuid"],
                "remove that one first",
            )

    def _goals(self, disks: List[Attached]) -> Dict[str, Optional[Goal]]:
        """{VDI uuid: (argument, SR ref, target VDI record or None) or None}"""
        default = None
        if self.request.destination_sr:
            default = self.destination.ref("SR", self.request.destination_sr)
            if not default:
                self.problems.add(
                    self.sr_argument,
                    "no SR %s at the destination" % self.request.destination_sr,
                    "the UUID of an SR there",
                )
        goals: Dict[str, Optional[Goal]] = {}
        for _, vbd, vdi in disks:
            key, argument = vdi["uuid"], "vdi:" + vdi["uuid"]
            if key in self.request.vdis:
                goals[key] = self._named_goal(argument, self.request.vdis[key])
            elif default:
                goals[key] = (self.sr_argument, default, None)
            else:
                goals[key] = None
                if self.cross_pool and not self.request.destination_sr:
                    self.problems.add(
                        argument,
                        "disk %s (%s) has no SR to go to" % (vbd["userdevice"], vdi["name_label"]),
                        "give vdi:%s=<SR> or destination-sr-uuid=<SR>" % key,
                    )
        if (
            not self.cross_pool
            and disks
            and not self.request.destination_sr
            and not self.request.vdis
        ):
            self.problems.add(
                self.sr_argument,
                "is missing, so no disk would move",
                "the UUID of an SR, or vdi:<VDI>=<SR>",
            )
        return goals

    def _named_goal(self, argument: str, uuid: str) -> Optional[Goal]:
        sr = self.destination.ref("SR", uuid)
        if sr:
            return argument, sr, None
        _, target = self.destination.by_uuid("VDI", uuid)
        if target:
            return argument, target["SR"], target
        self.problems.add(
            argument,
            "neither an SR nor a VDI of the destination is %s" % uuid,
            "the UUID of an SR, or of a VDI to fill",
        )
        return None

    def _host(self, srs: Iterable[str]) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
        """(ref, record) of the destination host."""
        request, hosts = self.request, self.destination.all("host")
        if request.host:
            fields = () if request.host_argument == "host-uuid" else ("name_label", "hostname")
            found = self.destination.named("host", request.host, *fields)
            if len(found) != 1:
                self.problems.add(
                    request.host_argument,
                    "%s host %r at the destination"
                    % ("more than one" if found else "no", request.host),
                    "one of %s" % ", ".join(sorted(host["name_label"] for host in hosts.values())),
                )
                return None, None
        elif not self.cross_pool:
            found = [(self.here, hosts[self.here])]
        else:
            found = [
                (ref, host)
                for ref, host in sorted(hosts.items(), key=lambda entry: entry[1]["name_label"])
                if usable(self.destination, host)
                and all(
                    checks.plugged(self.destination, self.destination.of("SR", sr), ref)
                    for sr in srs
                )
            ]
            if not found:
                self.problems.add(
                    "host",
                    "no host at the destination is enabled and sees all SRs that the disks go to",
                    "plug the SRs on one host, or name SRs that one sees",
                )
                return None, None
        ref, host = found[0]
        if not usable(self.destination, host):
            self.problems.add(
                request.host_argument,
                "host %s is disabled or not alive" % host["name_label"],
                "another host",
            )
        return ref, host

    def _network(self, host_ref: Optional[str], host: Optional[Dict[str, Any]]) -> Tuple[str, str]:
        """(UUID, the host's address) of the network that the bytes take."""
        if not host_ref or not host:
            return "", ""
        argument, text = "remote-network", self.request.network
        if text:
            networks = self.destination.named("network", text, "name_label", "bridge")
            if len(networks) != 1:
                self.problems.add(
                    argument,
                    "%s network %r at the destination"
                    % ("more than one" if networks else "no", text),
                    "its UUID, name or bridge",
                )
                return "", ""
            wanted = networks[0][0]
        pifs = [
            pif for _, pif in sorted(self.destination.all("PIF").items()) if pif["host"] == host_ref
        ]
        pifs = [pif for pif in pifs if (pif["network"] == wanted if text else pif["management"])]
        if pifs and not pifs[0]["IP"] and pifs[0].get("IPv6"):
            self.problems.add(
                argument,
                "host %s has only IPv6 addresses on %s, and the data takes IPv4"
                % (host["name_label"], text or "its management network"),
                "a network on which it has an IPv4 address",
            )
            return "", ""
        if not pifs or not pifs[0]["IP"]:
            self.problems.add(
                argument,
                "host %s has no address on %s"
                % (host["name_label"], text or "a management network"),
                "a network on which it has one",
            )
            return "", ""
        return self.destination.of("network", pifs[0]["network"])["uuid"], pifs[0]["IP"]

    def _moving(
        self,
        disks: List[Attached],
        goals: Dict[str, Optional[Goal]],
        host_ref: Optional[str],
        host: Optional[Dict[str, Any]],
    ) -> Tuple[List[Disk], List[str]]:
        """(Disks that move, UUIDs of VDIs that stay)."""
        moving: List[Disk] = []
        staying: List[str] = []
        sizes: Dict[Tuple[str, str], List[Tuple[str, int, str]]] = {}
        chosen: Dict[str, str] = {}
        for _, vbd, vdi in disks:
            key, size = vdi["uuid"], int(vdi["virtual_size"])
            goal, sr = goals[key], self.source.of("SR", vdi["SR"])
            if not self.cross_pool and (goal is None or (goal[1] == vdi["SR"] and goal[2] is None)):
                staying.append(key)
                if key in self.request.formats:
                    self.problems.add(
                        "image-format:" + key,
                        "the disk stays where it is, as it is",
                        "give it an SR to go to, or leave it out",
                    )
                if host_ref and host and not checks.plugged(self.destination, sr, host_ref):
                    self.problems.add(
                        "vdi:" + key,
                        "stays in SR %s (%s), which host %s does not see"
                        % (sr["uuid"], sr["name_label"], host["name_label"]),
                        "give it an SR to go to",
                    )
                continue
            table = checks.DISK_CHECKS + (
                checks.LIVE_DISK_CHECKS if self.vm["power_state"] == "Running" else ()
            )
            checks.check(
                table,
                self.problems,
                "vdi:" + key,
                "disk %s (%s)" % (vbd["userdevice"], vdi["name_label"]),
                vdi,
                vbd,
            )
            live = self.vm["power_state"] == "Running"
            checks.source_sr(self.problems, "vdi:" + key, sr, vdi, live)
            if goal is None:
                continue
            argument, sr_ref, target = goal
            made = sizes.setdefault((argument, sr_ref), [])
            asked = self.request.formats.get(key, "")
            if target:
                self._target(argument, vdi, target, size, chosen)
                if asked:
                    self.problems.add(
                        "image-format:" + key,
                        "is given beside a VDI to fill, which has a format",
                        "leave it out",
                    )
            else:
                made.append((key, size, asked))
            disk = self._disk(vbd, vdi, sr, self.destination.of("SR", sr_ref), target)
            moving.append(disk._replace(image_format=asked))
        for (argument, sr_ref), wanted in sorted(sizes.items()):
            checks.destination_sr(
                self.destination,
                self.problems,
                argument,
                self.destination.of("SR", sr_ref),
                host_ref,
                host,
                wanted,
            )
        if disks and not moving and not self.problems:
            self.problems.add(
                self.sr_argument,
                "every disk is there already",
                "another SR, or xe vm-migrate to move the VM alone",
            )
        return moving, staying

    def _target(
        self,
        argument: str,
        vdi: Dict[str, Any],
        target: Dict[str, Any],
        size: int,
        chosen: Dict[str, str],
    ) -> None:
        checks.target_vdi(self.problems, argument, target, size)
        if target["uuid"] == vdi["uuid"] or target["uuid"] in chosen:
            self.problems.add(
                argument,
                "VDI %s is already %s"
                % (target["uuid"], chosen.get(target["uuid"], "this very disk")),
                "a VDI for each disk",
            )
        chosen[target["uuid"]] = "given for %s" % argument

    def _disk(
        self,
        vbd: Dict[str, Any],
        vdi: Dict[str, Any],
        sr: Dict[str, Any],
        goal: Dict[str, Any],
        target: Optional[Dict[str, Any]],
    ) -> Disk:
        return Disk(
            key=vdi["uuid"],
            vbd=vbd["uuid"],
            device=vbd["device"] or vbd["userdevice"],
            name_label=vdi["name_label"],
            name_description=vdi["name_description"],
            size=int(vdi["virtual_size"]),
            data=room.data_of(self.source, vdi),
            location=vdi["location"],
            source_sr=sr["uuid"],
            source_sr_name=sr["name_label"],
            destination_sr=goal["uuid"],
            destination_sr_name=goal["name_label"],
            target=target["uuid"] if target else "",
            type=vdi["type"],
            sharable=vdi["sharable"],
            other_config=dict(vdi["other_config"]),
            xenstore_data=dict(vdi["xenstore_data"]),
        )

    def _cds(self, host_ref: str) -> List[Cd]:
        cds = []
        for ref in self.vm["VBDs"]:
            vbd = self.source.of("VBD", ref)
            vdi = (
                self.source.of("VDI", vbd["VDI"])
                if vbd and vbd["type"] == "CD" and not vbd["empty"]
                else None
            )
            if vdi:
                seen = not self.cross_pool and checks.plugged(
                    self.destination, self.source.of("SR", vdi["SR"]), host_ref
                )
                cds.append(
                    Cd(
                        vbd=vbd["uuid"],
                        vdi=vdi["uuid"],
                        device=vbd["device"] or vbd["userdevice"],
                        eject=not seen,
                    )
                )
        return cds

    def _vifs(self, host_ref: Optional[str], host: Optional[Dict[str, Any]]) -> List[Vif]:
        records = [self.source.of("VIF", ref) for ref in self.vm["VIFs"]]
        find = self._network_there if self.cross_pool else self._network_here
        found = [(vif, find(vif)) for vif in sorted(records, key=lambda vif: vif["device"])]
        for vif, network in found:
            if network and host_ref and host:
                self._reachable(vif, network, host_ref, host)
        return [
            Vif(vif=vif["uuid"], device=vif["device"], network=network["uuid"])
            for vif, network in found
            if network
        ]

    def _network_there(self, vif: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        argument, given = "vif:" + vif["uuid"], self.request.vifs.get(vif["uuid"])
        if not given:
            self.problems.add(
                argument,
                "interface %s (%s) has no network to go to" % (vif["device"], vif["MAC"]),
                "give vif:%s=<network>" % vif["uuid"],
            )
            return None
        network = self.destination.by_uuid("network", given)[1]
        if network:
            return network
        other = self.destination.by_uuid("VIF", given)[1]
        if other:
            return self.destination.of("network", other["network"])
        self.problems.add(
            argument,
            "neither a network nor a VIF of the destination is %s" % given,
            "the UUID of a network there, or of a VIF whose network is meant",
        )
        return None

    def _network_here(self, vif: Dict[str, Any]) -> Dict[str, Any]:
        network = self.source.of("network", vif["network"])
        given = self.request.vifs.get(vif["uuid"])
        if given and given not in (network["uuid"], vif["uuid"]):
            self.problems.add(
                "vif:" + vif["uuid"],
                "interfaces keep their networks in a move within the pool",
                "leave it out",
            )
        return network

    def _reachable(
        self, vif: Dict[str, Any], network: Dict[str, Any], host_ref: str, host: Dict[str, Any]
    ) -> None:
        """A network with PIFs must have one on the destination host; one without is the pool's own,
        and is everywhere."""
        pifs = [self.destination.of("PIF", ref) for ref in network["PIFs"]]
        if pifs and not any(pif and pif["host"] == host_ref for pif in pifs):
            self.problems.add(
                "vif:" + vif["uuid"],
                "network %s (%s) is not on host %s"
                % (network["uuid"], network["name_label"], host["name_label"]),
                "a network of that host",
            )
