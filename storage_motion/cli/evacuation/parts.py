# SPDX-License-Identifier: LGPL-2.1-only
"""What an evacuation consists of, as data, which the state file keeps as JSON. UUIDs throughout;
sizes in bytes."""

from typing import Any, Dict, List, NamedTuple, Tuple


class Disk(NamedTuple):
    """A disk that is to move. `data`: what it holds, as far as the pool's records tell."""

    vdi: str
    name: str
    device: str
    size: int
    data: int
    source_sr: str
    destination_sr: str = ""  # "" as long as it is not chosen

    @property
    def title(self) -> str:
        """As a person calls it."""
        return "%s %s" % (self.device, self.name) if self.name else self.device


class Planned(NamedTuple):
    """A VM that is to move. `arguments`: the plugin's, without any password. `hosts`: those that
    its migration keeps busy, the source's and the destination's; as far as that is known."""

    vm: str
    name: str
    disks: Tuple[Disk, ...]
    arguments: Dict[str, str]
    hosts: Tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Of all its disks that move."""
        return sum(disk.size for disk in self.disks)

    @property
    def data(self) -> int:
        """What they hold, as far as the pool's records tell."""
        return sum(disk.data for disk in self.disks)

    @property
    def srs(self) -> Tuple[str, ...]:
        """Those that its migration keeps busy, on both sides."""
        found = {disk.source_sr for disk in self.disks} | {
            disk.destination_sr for disk in self.disks
        }
        return tuple(sorted(found - {""}))

    def to_json(self) -> Dict[str, Any]:
        """As JSON values."""
        return dict(self._asdict(), disks=[disk._asdict() for disk in self.disks])

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Planned":
        """What `to_json` gave. Raises TypeError or KeyError for anything else."""
        return cls(
            vm=value["vm"],
            name=value["name"],
            disks=tuple(Disk(**disk) for disk in value["disks"]),
            arguments=dict(value["arguments"]),
            hosts=tuple(value["hosts"]),
        )


DISK, VM = "disk", "VM"


class Left(NamedTuple):
    """What was asked for, and is not to be moved: a disk, or a VM with `disks` of them. `refused`:
    whether it would be, were not something wrong with it; `stays`: the same, as long as nobody has
    said to go on without it."""

    kind: str  # DISK or VM
    uuid: str
    name: str
    disks: int
    size: int
    reason: str
    todo: str
    refused: bool = False
    stays: bool = False


def count(number: int, thing: str) -> str:
    """ "1 disk", "2 disks"."""
    return "%d %s%s" % (number, thing, "" if number == 1 else "s")


def described(error: List[str]) -> str:
    """A XenAPI failure, [code, detail, ...], in one line."""
    return "%s: %s" % (error[0], ", ".join(error[1:])) if len(error) > 1 else "".join(error)
