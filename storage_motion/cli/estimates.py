# SPDX-License-Identifier: LGPL-2.1-only
"""How long a move may take: by what earlier ones between the same two hosts took, or not at all."""

from typing import Any, Dict, NamedTuple, Optional

from storage_motion.cli.pools import Pool

LOOKED_AT = 5  # of the latest migrations
SCANNED = "what is allocated in the images, by a scan of their SRs just now"
NOT_SCANNED = "what was allocated in the images at the last scan of their SRs, which is not new"
VOLUMES = "; of a volume on LVM that no mirror is for, all of it"
LEAST = 1 << 20  # bytes: with less than this, no rate is measured


class Rate(NamedTuple):
    """What `migrations` earlier ones have moved in that time: all of their phases count."""

    migrations: int
    moved: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Bytes."""
        return self.moved / self.seconds


def measured(pool: Pool, source_host: str, destination_host: str) -> Optional[Rate]:
    """The rate of the latest migrations that have succeeded between two hosts, by their names; None
    without any."""
    ended = [
        one["migration"]
        for one in pool.plugin("list")["migrations"]
        if one["state"] == "succeeded"
        and (one["source_host"], one["destination_host"]) == (source_host, destination_host)
    ]
    found = [pool.plugin("status", migration=one) for one in ended[:LOOKED_AT]]
    found = [one for one in found if one["bytes_moved"] >= LEAST and _seconds(one) > 0]
    if not found:
        return None
    return Rate(
        len(found), sum(one["bytes_moved"] for one in found), sum(_seconds(one) for one in found)
    )


def basis_of_data(answer: Dict[str, Any]) -> str:
    """What the dry run's figure of the data goes by."""
    # a plugin of before says nothing of it, and has them scanned
    basis = SCANNED if answer.get("scanned", True) else NOT_SCANNED
    volumes = [
        disk for disk in answer["disks"] if disk["moves"] and disk["sr"]["allocation"] == "thick"
    ]
    return basis + (VOLUMES if volumes and not answer["plan"]["live"] else "")


def _seconds(ended: Dict[str, Any]) -> float:
    seconds: float = ended["updated"] - ended["started"]
    return seconds


def of(pool: Pool, answer: Dict[str, Any]) -> Dict[str, Any]:
    """{"bytes", "bytes_basis", "seconds", "seconds_basis"} of what the plugin answers to a dry run,
    which has a plan."""
    plan = answer["plan"]
    sent = sum(disk["data"] for disk in plan["disks"] + plan["history"])
    related = [disk for disk in plan["disks"] + plan["history"] if disk["base_there"]]
    rate = measured(pool, plan["source_host_name"], plan["destination_host_name"])
    between = "%s to %s" % (plan["source_host_name"], plan["destination_host_name"])
    return {
        "bytes": sent,
        "bytes_basis": basis_of_data(answer)
        + "; what the guest writes meanwhile comes on top"
        + (
            "; %d of the disks are clones of what is there, and less is sent" % len(related)
            if related
            else ""
        ),
        "seconds": sent / rate.per_second if rate else None,
        "seconds_basis": "measured: %d earlier from %s, %d MiB in %d s, all phases"
        % (rate.migrations, between, rate.moved >> 20, rate.seconds)
        if rate
        else "unknown: none has succeeded from %s yet" % between,
    }
