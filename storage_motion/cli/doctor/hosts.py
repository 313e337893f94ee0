# SPDX-License-Identifier: LGPL-2.1-only
"""Checks of hosts: whether each answers, and has what a migration needs."""

import datetime
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import storage_motion
from storage_motion.cli import exit_codes, output
from storage_motion.cli.doctor.findings import OK, PROBLEM, WARNING, Finding
from storage_motion.cli.doctor.looking import Seen

MISSING, UNKNOWN = "XENAPI_MISSING_PLUGIN", "UNKNOWN_XENAPI_PLUGIN_FUNCTION"
NO_ANSWER = (
    "look in /var/log/xensource.log and /var/log/sxm.log there; xe-toolstack-restart there may "
    "help, and hinders no migration"
)
INSTALL = "install storage-xenmotion %s on every host (docs/operations.md, Install)"
APART = 5.0  # seconds that clocks may be apart before anybody minds
FAR_APART = 300.0
ROOM, LITTLE_ROOM = 16 << 20, 256 << 20  # bytes in dom0 for journals; each takes some KiB
DAYS = 30  # before a certificate ends


def enabled(seen: Seen) -> Iterator[Finding]:
    """Hosts that are down, or in maintenance."""
    for ref, host in seen.hosts:
        metrics = seen.view.of("host_metrics", host["metrics"])
        if metrics and not metrics["live"]:
            yield Finding(
                PROBLEM,
                "xapi has it as not alive",
                seen.where("host", ref),
                "switch it on, or look why its xapi does not answer; if it is gone for good: "
                "xe host-forget uuid=%s" % host["uuid"],
            )
        elif not host["enabled"]:
            yield Finding(
                WARNING,
                "is disabled, as in maintenance: no VM can be moved to it",
                seen.where("host", ref),
                "xe host-enable uuid=%s, once its maintenance is over" % host["uuid"],
            )


def plugin(seen: Seen) -> Iterator[Finding]:
    """Hosts on which the plugin does not say what `doctor` asks it."""
    for ref, failure in sorted(seen.failures.items()):
        where = seen.where("host", ref)
        if failure[0] == MISSING:
            yield Finding(PROBLEM, "has no Storage XenMotion", where, _install(seen))
        elif UNKNOWN in failure:
            yield Finding(
                PROBLEM,
                "has an older version of Storage XenMotion, without doctor",
                where,
                _install(seen),
            )
        else:
            yield Finding(
                PROBLEM,
                "does not answer: %s" % ": ".join(failure),
                where,
                exit_codes.of(failure).remedy or NO_ANSWER,
            )


def _install(seen: Seen) -> str:
    versions = sorted({facts["version"] for facts in seen.facts.values()})
    return INSTALL % (versions[-1] if versions else storage_motion.__version__)


def whole(seen: Seen) -> Iterator[Finding]:
    """The driver MirrorSR beside the plugin, and of its version."""
    for ref, facts in sorted(seen.facts.items()):
        found, version = facts["installed"], facts["version"]
        if not found["driver"]:
            what = "has no driver MirrorSR, so it can send no VM"
        elif found["driver_version"] != version:
            what = "has MirrorSR %s beside the plugin %s" % (found["driver_version"], version)
        else:
            continue
        yield Finding(PROBLEM, what, seen.where("host", ref), INSTALL % version)


def same_version(pools: List[Seen]) -> Iterator[Finding]:
    """One version on all hosts of all pools; and here."""
    by_version: Dict[str, List[str]] = {}
    for seen in pools:
        for ref, facts in sorted(seen.facts.items()):
            by_version.setdefault(facts["version"], []).append(seen.where("host", ref))
    where = pools_in_words(pools)
    if len(by_version) > 1:
        yield Finding(
            PROBLEM,
            "the hosts have several versions of Storage XenMotion: %s"
            % "; ".join("%s: %s" % (one, ", ".join(by_version[one])) for one in sorted(by_version)),
            where,
            INSTALL % sorted(by_version)[-1],
        )
    elif by_version and _release(storage_motion.__version__) not in map(_release, by_version):
        yield Finding(
            WARNING,
            "the hosts have version %s, and sxm is %s"
            % (", ".join(by_version), storage_motion.__version__),
            where,
            "install sxm of the version of the hosts on this machine",
        )


def _release(version: str) -> str:
    """Without what the package adds to it (rpm/storage-xenmotion.spec): sxm has none."""
    return version.partition("-")[0]


def pools_in_words(pools: List[Seen]) -> str:
    """As "pools paris and lyon"."""
    return "pool%s %s" % ("s" if len(pools) > 1 else "", " and ".join(one.name for one in pools))


# what is called so -> where it is in a host's record (r) and in what the plugin says (f, or None)
SOFTWARE: Tuple[Tuple[str, Callable[[Dict[str, Any], Any], Optional[str]]], ...] = (
    ("platform", lambda r, f: r.get("software_version", {}).get("product_version")),
    ("xapi", lambda r, f: f["packages"]["xapi-core"] if f else None),
    ("sm", lambda r, f: f["packages"]["sm"] if f else None),
    ("blktap", lambda r, f: f["installed"]["blktap"] if f else None),
)


def software(seen: Seen) -> Iterator[Finding]:
    """xapi, SM and blktap are of one version in a pool, as far as the hosts tell it."""
    told = []
    for name, read in SOFTWARE:
        by_version: Dict[str, List[str]] = {}
        for ref, host in seen.hosts:
            version = read(host, seen.facts.get(ref))
            if version:
                by_version.setdefault(version, []).append(host["name_label"])
        if len(by_version) > 1:
            yield Finding(
                WARNING,
                "%s differs: %s"
                % (
                    name,
                    "; ".join(
                        "%s on %s" % (v, ", ".join(by_version[v])) for v in sorted(by_version)
                    ),
                ),
                "pool %s" % seen.name,
                "bring all hosts of the pool to one version; a VM moves to a newer host, and not "
                "back",
            )
        told += ["%s %s" % (name, version) for version in by_version if len(by_version) == 1]
    if told:
        yield Finding(OK, "the same on all hosts: %s" % ", ".join(told), "pool %s" % seen.name)


def qcow2(seen: Seen) -> Iterator[Finding]:
    """A blktap that is not known to be safe for QCOW2, where there is any."""
    used = any(
        vdi["sm_config"].get("image-format") == "qcow2" for vdi in seen.view.all("VDI").values()
    )
    for ref, facts in sorted(seen.facts.items()) if used else ():
        if not facts["installed"]["qcow2_safe"]:
            yield Finding(
                WARNING,
                "its blktap %s is not known to be safe for QCOW2: such disks move slowly"
                % facts["installed"]["blktap"],
                seen.where("host", ref),
                "docs/operations.md, QCOW2 disks move slowly",
            )


def platforms(pools: List[Seen]) -> Iterator[Finding]:
    """xapi moves no VM to an older host (helpers.ml, version_keys: platform_version first)."""
    source, destination = (_platforms(one) for one in pools)
    if source and destination and max(source) > min(destination):
        yield Finding(
            PROBLEM if min(source) > max(destination) else WARNING,
            "has a host of platform %s, older than %s in %s: xapi moves no VM from that to this"
            % (_dotted(min(destination)), _dotted(max(source)), pools[0].name),
            "pool %s" % pools[1].name,
            "update the hosts of %s first" % pools[1].name,
        )


def _platforms(seen: Seen) -> List[List[int]]:
    texts = [host.get("software_version", {}).get("platform_version") for _, host in seen.hosts]
    return [[int(part) for part in text.split(".")] for text in texts if text]


def _dotted(version: List[int]) -> str:
    return ".".join(str(part) for part in version)


def clocks(pools: List[Seen]) -> Iterator[Finding]:
    """How far the hosts' clocks are from one another, and from this machine's."""
    known = [
        (seen.where("host", ref), clock)
        for seen in pools
        for ref, clock in sorted(seen.clocks.items())
    ]
    if not known:
        return
    first = min(known, key=lambda one: one[1].ahead)
    last = max(known, key=lambda one: one[1].ahead)
    apart = last[1].ahead - first[1].ahead - first[1].unsure - last[1].unsure
    if apart > APART:
        yield Finding(
            PROBLEM if apart > FAR_APART else WARNING,
            "its clock is %s ahead of that of %s" % (output.duration(apart), first[0]),
            last[0],
            "have both keep time: chronyc sources -v; timedatectl set-ntp true",
        )
    else:
        here = min(known, key=lambda one: abs(one[1].ahead))[1]
        if abs(here.ahead) - here.unsure > APART:
            yield Finding(
                WARNING,
                "this machine's clock is %s %s theirs"
                % (output.duration(abs(here.ahead)), "behind" if here.ahead > 0 else "ahead of"),
                pools_in_words(pools),
                "set this machine's clock: what sxm says of times is by it",
            )


def room(seen: Seen) -> Iterator[Finding]:
    """Room in dom0 for the journals, without which nothing begins or goes on."""
    for ref, facts in sorted(seen.facts.items()):
        free = facts["room"]
        if free is not None and free < LITTLE_ROOM:
            yield Finding(
                PROBLEM if free < ROOM else WARNING,
                "dom0 has only %s free in /var/lib/sxm, where journals are written"
                % output.size(free),
                seen.where("host", ref),
                "make room on that host's root: du -xsh /var/log /var/crash",
            )


# type of a certificate -> how it is renewed (cli_frontend.ml)
RENEW = {
    "host": "xe host-reset-server-certificate uuid=%s makes a new one, or xe "
    "host-server-certificate-install; of the master: then sxm trust as well",
    "host_internal": "xe host-refresh-server-certificate host=%s",
}


def certificates(seen: Seen) -> Iterator[Finding]:
    """Those by which the hosts show who they are."""
    of_hosts = [one for one in seen.certificates.values() if one.get("type", "host") in RENEW]
    where = "pool %s" % seen.name
    if not of_hosts:
        yield Finding(OK, "this xapi tells no dates of its hosts' certificates", where)
        return
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    for record in of_hosts:
        where = seen.where("host", record["host"])
        begins, ends = _time(record["not_before"]), _time(record["not_after"])
        right = RENEW[record.get("type", "host")] % _uuid(seen, record)
        if ends < now:
            yield Finding(PROBLEM, "its certificate ended on %s" % _day(ends), where, right)
        elif begins > now:
            yield Finding(
                PROBLEM,
                "its certificate begins only on %s" % _day(begins),
                where,
                "set that host's clock, and this machine's",
            )
        elif ends - now < datetime.timedelta(days=DAYS):
            yield Finding(WARNING, "its certificate ends on %s" % _day(ends), where, right)


def _uuid(seen: Seen, record: Dict[str, Any]) -> str:
    host = seen.view.of("host", record["host"])
    return host["uuid"] if host else ""


def _time(value: object) -> datetime.datetime:
    """Of XenAPI's DateTime, in UTC: "20260101T12:00:00Z", or with hyphens."""
    text = str(value).replace("-", "").rstrip("Z")
    return datetime.datetime.strptime(text.partition(".")[0], "%Y%m%dT%H:%M:%S")


def _day(when: datetime.datetime) -> str:
    return when.strftime("%d %B %Y")


def high_availability(seen: Seen) -> Iterator[Finding]:
    """What HA means for a move here."""
    pool = seen.view.pool()
    if not pool.get("ha_enabled"):
        return
    where = "pool %s" % seen.name
    if pool.get("ha_overcommitted"):
        yield Finding(
            WARNING,
            "HA is enabled, and could not restart all VMs if a host failed",
            where,
            "xe pool-ha-compute-max-host-failures-to-tolerate, then lower the number, or free "
            "memory; xapi refuses moves that make it worse",
        )
    else:
        yield Finding(OK, "HA is enabled; it restarts a VM nowhere while its disks move", where)
