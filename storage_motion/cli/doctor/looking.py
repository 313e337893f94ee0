# SPDX-License-Identifier: LGPL-2.1-only
"""Looks at a pool: its records, what the plugin says on each host, and what is still so a moment
later. Whoever does not answer in time is noted as such."""

import threading
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Tuple, TypeVar

import XenAPI

from storage_motion.api import left_marks
from storage_motion.cli.failures import EXPECTED, NO_ANSWER, failure_of
from storage_motion.cli.pools import Pool
from storage_motion.xapi.records import Records

Item = TypeVar("Item")

FACTS = "doctor"  # the plugin's function
RELINKING = "relinking"
HOST_TIMEOUT = 45.0  # seconds for one host to answer
MOST_ASKED = 50  # VDIs with `relinking`, of which each costs a look at its SR
SRS_AT_ONCE = 4  # a look is a process on the SR's master
NOT_KNOWN = "MESSAGE_METHOD_UNKNOWN"


class Clock(NamedTuple):
    """How many seconds a host is ahead of this machine, `unsure` more or less."""

    ahead: float
    unsure: float


class Seen:
    """A pool as it was found. `facts`: {host's ref: what the plugin's `doctor` says}; `failures`:
    {host's ref: [code, detail, ...]} of those that do not say it; `relinking`: {VDI's ref: "none",
    "left", "unknown"}; `paused`: the refs of VDIs that SM had paused at both of two looks;
    `certificates`: {ref: record}."""

    def __init__(self, name: str, url: str, view: Records) -> None:
        self.name = name
        self.url = url
        self.view = view
        self.facts: Dict[str, Dict[str, Any]] = {}
        self.failures: Dict[str, List[str]] = {}
        self.clocks: Dict[str, Clock] = {}
        self.relinking: Dict[str, str] = {}
        self.paused: List[str] = []
        self.certificates: Dict[str, Dict[str, Any]] = {}

    @property
    def hosts(self) -> List[Tuple[str, Dict[str, Any]]]:
        """[(ref, record)], by name."""
        return sorted(self.view.all("host").items(), key=lambda one: one[1]["name_label"])

    def where(self, class_name: str, ref: str) -> str:
        """What a finding calls an object: "host p1 of paris"."""
        record = self.view.of(class_name, ref) or {"name_label": "", "uuid": ref}
        if class_name == "host":
            return "host %s of %s" % (record["name_label"], self.name)
        return "%s %s (%s)" % (class_name, record["name_label"] or "without a name", record["uuid"])

    def host_name(self, ref: str) -> str:
        """The name of a host."""
        name: str = self.view.of("host", ref)["name_label"]
        return name


def look(pool: Pool) -> Seen:
    """Raises XenAPI.Failure or OSError, if its toolstack does not answer."""
    seen = Seen(pool.name, pool.known.url, pool.records(anew=True))
    for class_name in ("pool", "host", "host_metrics", "SR", "PBD", "SM", "VDI", "VM"):
        seen.view.all(class_name)
    seen.certificates = _certificates(seen.view)
    began = time.monotonic()
    _ask_hosts(pool, seen)
    _ask_for_relinking(pool, seen)
    seen.paused = _still_paused(pool, seen, began)
    return seen


def each(
    work: Callable[[Item], Any], items: Iterable[Item], seconds: float
) -> List[Tuple[Item, Any, List[str]]]:
    """[(item, `work(item)`, [])] of all items, at once; or (item, None, [code, detail, ...]) where
    that failed, or took longer than this. What does not answer holds nobody up."""
    answers: Dict[int, Any] = {}
    failed: Dict[int, Exception] = {}

    def run(number: int, item: Item) -> None:
        try:
            answers[number] = work(item)
        except Exception as error:
            failed[number] = error

    listed = list(items)
    threads = [
        threading.Thread(target=run, args=one, name="doctor", daemon=True)
        for one in enumerate(listed)
    ]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    found: List[Tuple[Item, Any, List[str]]] = []
    for number, item in enumerate(listed):
        error = failed.get(number)
        if error is not None and not isinstance(error, EXPECTED):
            raise error
        if number in answers:
            found.append((item, answers[number], []))
        elif error is not None:
            found.append((item, None, failure_of(error)))
        else:
            found.append((item, None, [NO_ANSWER, "none within %g s" % seconds]))
    return found


def _certificates(view: Records) -> Dict[str, Dict[str, Any]]:
    """None of a xapi that has none (before 1.290: datamodel_certificate.ml, rel_stockholm)."""
    try:
        return view.all("Certificate")
    except XenAPI.Failure as failure:
        if failure.details[0] != NOT_KNOWN:
            raise
        return {}


def _ask_hosts(pool: Pool, seen: Seen) -> None:
    def ask(host: str) -> Tuple[Dict[str, Any], Clock]:
        before, began = time.time(), time.monotonic()
        facts = pool.plugin_on(host, FACTS)
        took = time.monotonic() - began
        return facts, Clock(float(facts["time"]) - before - took / 2, took / 2)

    for host, answer, failure in each(ask, [ref for ref, _ in seen.hosts], HOST_TIMEOUT):
        if failure:
            seen.failures[host] = failure
        else:
            seen.facts[host], seen.clocks[host] = answer


def _ask_for_relinking(pool: Pool, seen: Seen) -> None:
    """Of each VDI that SM relinks, on its SR's master, whether anybody is at it. One after the
    other of an SR: each look wants the SR's lock, and waits for nobody (sm/disks/pauses.py,
    sr_locked)."""
    asked = [
        (ref, vdi)
        for ref, vdi in sorted(seen.view.all("VDI").items())
        if vdi["sm_config"].get(left_marks.RELINKING) == left_marks.RELINKED_BY_SM
    ]

    of_srs: Dict[str, List[Tuple[str, str]]] = {}
    for ref, vdi in asked[:MOST_ASKED]:
        of_srs.setdefault(vdi["SR"], []).append((ref, vdi["uuid"]))
    answers: Dict[str, str] = {}
    end = time.monotonic() + HOST_TIMEOUT
    free = threading.Semaphore(SRS_AT_ONCE)

    def ask(sr: str) -> None:
        for ref, uuid in of_srs[sr]:
            with free:
                if time.monotonic() > end:
                    return
                try:
                    answers[ref] = pool.plugin_on(_sr_master(seen, sr), RELINKING, vdi=uuid)[
                        "state"
                    ]
                except EXPECTED:
                    pass  # which is not known then

    each(ask, of_srs, HOST_TIMEOUT)
    known = dict(answers)  # who is late goes on writing to the other
    for ref, _ in asked:
        seen.relinking[ref] = known.get(ref, "unknown")


def _sr_master(seen: Seen, sr: str) -> str:
    record = seen.view.of("SR", sr)
    if not record["shared"]:
        for ref in record["PBDs"]:
            pbd = seen.view.of("PBD", ref)
            if pbd:
                host: str = pbd["host"]
                return host
    master: str = seen.view.pool()["master"]
    return master


def _is_paused(vdi: Dict[str, Any]) -> bool:
    return vdi["sm_config"].get(left_marks.PAUSED) == left_marks.PAUSED_BY_SM


PAUSED_FOR = 10.0  # seconds between the two looks: SM's own pauses last for a moment


def _still_paused(pool: Pool, seen: Seen, began: float) -> List[str]:
    first = [ref for ref, vdi in sorted(seen.view.all("VDI").items()) if _is_paused(vdi)]
    if not first:
        return []
    time.sleep(max(0.0, began + PAUSED_FOR - time.monotonic()))
    again = Records(pool.session)
    found = [(ref, again.of("VDI", ref)) for ref in first]
    return [ref for ref, vdi in found if vdi and _is_paused(vdi) and not vdi["current_operations"]]
