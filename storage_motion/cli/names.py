# SPDX-License-Identifier: LGPL-2.1-only
"""What a user calls a thing, found in its pool: by UUID or name, and a disk or an interface by its
device, too. What is ambiguous or unknown is refused with those that may have been meant."""

import contextlib
import difflib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import XenAPI

from storage_motion.cli.failures import AmbiguousName, UnknownName
from storage_motion.cli.output import size
from storage_motion.cli.pools import Pool
from storage_motion.uuids import UUID
from storage_motion.xapi.records import NULL, Records

NEAR = 3  # at most so many that are called nearly so
NO_VM = ("is_a_template", "is_a_snapshot", "is_control_domain")
SHOWN = 12  # at most so many candidates


class Found(NamedTuple):
    """An object of a pool. `device`: of a disk or an interface, as "xvdb" or "0"."""

    ref: str
    uuid: str
    name: str
    record: Dict[str, Any]
    device: str = ""


class _Kind(NamedTuple):
    """`called`: in words; `names`: what else than its UUID a thing may be called; `apart`: what
    tells it from others of its name."""

    called: str
    names: Callable[[Found], Sequence[str]]
    apart: Callable[[Records, Found], str]


@contextlib.contextmanager
def given_by(option: str, pool: Pool) -> Iterator[None]:
    """Meanwhile what is unknown or ambiguous names the option that has it, and the pool that was
    looked in."""
    try:
        yield
    except (UnknownName, AmbiguousName) as error:
        error.details = list(error.details)
        error.details[0] = "%s, in pool %s: %s" % (option, pool.name, error.details[0])
        raise


def vm(pool: Pool, text: str) -> Found:
    """A VM; no template, snapshot or control domain. Raises UnknownName, AmbiguousName."""
    return _find(pool.records(), _VM, vms(pool), text)


def vms(pool: Pool) -> List[Found]:
    """All of them."""
    return [one for one in _all(pool.records(), "VM") if is_vm(one.record)]


def is_vm(record: Dict[str, Any]) -> bool:
    """Whether a record of class VM is one of a VM."""
    return not any(
        record[field] for field in ("is_a_template", "is_a_snapshot", "is_control_domain")
    )


def host(pool: Pool, text: str) -> Found:
    """A host, also by its address. Raises UnknownName, AmbiguousName."""
    return _find(pool.records(), _HOST, _all(pool.records(), "host"), text)


def hosts(pool: Pool) -> List[Found]:
    """All of them, by their names."""
    return sorted(_all(pool.records(), "host"), key=lambda one: one.name)


def sr(pool: Pool, text: str, on: Optional[Found] = None) -> Found:
    """An SR; "HOST/NAME": the one of that name on that host. `on`: only those that this host is
    plugged to. Raises UnknownName, AmbiguousName."""
    view = pool.records()
    among = srs(pool, on)
    if not any(text in _called(_SR, one) for one in among) and "/" in text:
        host_name, _, name = text.partition("/")
        if any(host_name in _called(_HOST, one) for one in _all(view, "host")):
            among, text = srs(pool, host(pool, host_name)), name
    return _find(view, _SR, among, text)


def srs(pool: Pool, on: Optional[Found] = None) -> List[Found]:
    """All of them, or those that a host is plugged to."""
    view = pool.records()
    plugged = {
        pbd["SR"]
        for pbd in view.all("PBD").values()
        if on and pbd["host"] == on.ref and pbd["currently_attached"]
    }
    return [one for one in _all(view, "SR") if on is None or one.ref in plugged]


def network(pool: Pool, text: str) -> Found:
    """A network, also by its bridge. Raises UnknownName, AmbiguousName."""
    return _find(pool.records(), _NETWORK, _all(pool.records(), "network"), text)


def disk(pool: Pool, of: Found, text: str) -> Found:
    """A disk of a VM, the VDI: by its device ("xvdb" or "1"), UUID or name. Raises UnknownName,
    AmbiguousName."""
    return _find(pool.records(), _DISK, disks(pool, of), text, " of VM %s" % of.name)


def disks(pool: Pool, of: Found) -> List[Found]:
    """The disks of a VM, VDIs, in the order of their devices."""
    view = pool.records()
    found = []
    for ref in of.record["VBDs"]:
        vbd = view.of("VBD", ref)
        vdi = view.of("VDI", vbd["VDI"]) if vbd and vbd["type"] == "Disk" else None
        if vdi:
            device = vbd["device"] or vbd["userdevice"]
            record = dict(vdi, userdevice=vbd["userdevice"])
            found.append(Found(vbd["VDI"], vdi["uuid"], vdi["name_label"], record, device))
    return sorted(found, key=lambda one: (one.record["userdevice"].zfill(4), one.device))


def vif(pool: Pool, of: Found, text: str) -> Found:
    """An interface of a VM: by its device ("0"), UUID or MAC address. Raises UnknownName,
    AmbiguousName."""
    return _find(pool.records(), _VIF, vifs(pool, of), text, " of VM %s" % of.name)


def vifs(pool: Pool, of: Found) -> List[Found]:
    """The interfaces of a VM, in the order of their devices."""
    view = pool.records()
    records = [(ref, view.of("VIF", ref)) for ref in of.record["VIFs"]]
    found = [
        Found(ref, record["uuid"], record["MAC"], record, record["device"])
        for ref, record in records
        if record
    ]
    return sorted(found, key=lambda one: one.device.zfill(4))


def migration(pool: Pool, text: str) -> Dict[str, Any]:
    """What the plugin's `list` has of a migration: by its id or how that begins; or by its VM's
    UUID or name, with "vm=" before it or not: of those of one VM the one that runs, else the
    latest. Raises UnknownName, AmbiguousName."""
    wanted = text[len("vm=") :] if text.startswith("vm=") else text
    answer = pool.plugin("list")
    known = answer["migrations"]
    found = [one for one in known if one["migration"] == wanted] or [
        one for one in known if wanted in (one["vm"], one["vm_name"])
    ]
    by_vm = {one["vm"] for one in found}
    if not found and wanted == text and len(text) >= NEAR:
        found = [one for one in known if one["migration"].startswith(wanted)]
        by_vm = {one["migration"] for one in found}
    if len(by_vm) > 1:
        raise AmbiguousName("%d migrations may be meant by %r" % (len(found), text), *_told(found))
    if not found and not answer["unreadable"]:
        raise UnknownName(
            "there is no migration %r" % text, *(_told(known) or ["none is known in this pool"])
        )
    running = [one for one in found if one["state"] == "running"]
    if not running and answer["unreadable"]:
        # it may be just the one that is meant
        raise XenAPI.Failure(answer["unreadable"][0])
    return (running or found)[0]


def _told(migrations: List[Dict[str, Any]]) -> List[str]:
    return [
        "%s  %s (%s), %s since %s"
        % (one["migration"], one["vm_name"], one["vm"], one["state"], one["started"])
        for one in migrations[:SHOWN]
    ]


def _all(view: Records, class_name: str) -> List[Found]:
    return [
        Found(ref, record["uuid"], record["name_label"], record)
        for ref, record in sorted(view.all(class_name).items())
    ]


def _called(kind: _Kind, one: Found) -> List[str]:
    return [one.uuid] + list(kind.names(one))


def _find(view: Records, kind: _Kind, among: List[Found], text: str, where: str = "") -> Found:
    wanted = text.lower() if UUID.match(text.lower()) else text
    found = [one for one in among if one.uuid == wanted]
    found = found or [one for one in among if wanted and wanted in kind.names(one)]
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousName(
            "%d %ss%s are called %r" % (len(found), kind.called, where, text),
            *_listed(view, kind, found),
        )
    near = _near(kind, among, text)
    if near:
        raise UnknownName(
            "there is no %s %r%s; did you mean" % (kind.called, text, where),
            *_listed(view, kind, near),
        )
    raise UnknownName(
        "there is no %s %r%s" % (kind.called, text, where),
        *(_listed(view, kind, among) if len(among) <= SHOWN else []),
    )


def _near(kind: _Kind, among: List[Found], text: str) -> List[Found]:
    """Those whose names differ by case alone, hold it, or are nearly the same."""
    low = text.lower()
    names = {name.lower(): one for one in reversed(among) for name in _called(kind, one) if name}
    found = [one for name, one in names.items() if low == name]
    if len(text) >= NEAR:
        found += [one for name, one in names.items() if low in name]
    found += [names[name] for name in difflib.get_close_matches(low, list(names), NEAR, 0.6)]
    once = {one.ref: one for one in found}
    return list(once.values())[:NEAR]


def _listed(view: Records, kind: _Kind, found: List[Found]) -> List[str]:
    told = [
        "%s  %s  %s" % (one.uuid, one.name or "(no name)", kind.apart(view, one))
        for one in found[:SHOWN]
    ]
    return told + (["and %d more" % (len(found) - SHOWN)] if len(found) > SHOWN else [])


def host_name(view: Records, ref: str) -> str:
    """The name of a host by its ref, "" without one."""
    record = view.of("host", ref)
    return record["name_label"] if record else ""


def _vm_apart(view: Records, one: Found) -> str:
    on = host_name(view, one.record.get("resident_on", NULL))
    return one.record["power_state"] + (" on %s" % on if on else "")


def _sr_apart(view: Records, one: Found) -> str:
    on = [
        host_name(view, pbd["host"])
        for pbd in view.all("PBD").values()
        if pbd["SR"] == one.ref and pbd["currently_attached"]
    ]
    return "%s%s on %s" % (
        one.record["type"],
        ", shared," if one.record["shared"] else "",
        ", ".join(sorted(on)) or "no host",
    )


_VM = _Kind("VM", lambda one: [one.name], _vm_apart)
_HOST = _Kind(
    "host",
    lambda one: [one.name, one.record.get("hostname", ""), one.record.get("address", "")],
    lambda view, one: one.record.get("address", ""),
)
_SR = _Kind("SR", lambda one: [one.name], _sr_apart)
_NETWORK = _Kind(
    "network",
    lambda one: [one.name, one.record.get("bridge", "")],
    lambda view, one: "bridge %s" % one.record.get("bridge", ""),
)
_DISK = _Kind(
    "disk",
    lambda one: [one.device, one.record["userdevice"], one.name],
    lambda view, one: "%s, %s" % (one.device, size(int(one.record["virtual_size"]))),
)
_VIF = _Kind(
    "interface",
    lambda one: [one.device, one.name, one.name.lower()],
    lambda view, one: (
        "interface %s on network %s"
        % (one.device, (view.of("network", one.record["network"]) or {}).get("name_label", ""))
    ),
)
