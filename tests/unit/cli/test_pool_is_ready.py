# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm doctor`: two pools that are well, and each thing that may be wrong with one."""

import json
import threading
import time

import pytest

import storage_motion
from fake_pool import add_vdi, add_vm, by_name, failure, uuid_of
from storage_motion.api import left_marks, ports
from storage_motion.cli import exit_codes
from storage_motion.cli.doctor import looking
from storage_motion.cli.doctor.findings import OK, PROBLEM, WARNING
from storage_motion.errors import CertificateMismatch
from storage_motion.migration.phases import blocking

ID = "11111111-2222-3333-4444-555555555555"


class Hosts:
    """What the plugins of the pools of `sxm` answer to the doctor. `facts`: {host's name: changes
    of what is well, or an exception}; `ahead`: {host's name: seconds of its clock}; `reached`:
    {(from, to, port 443?): what it finds}; `relinking`: what is found of that."""

    def __init__(self, sxm):
        self.facts, self.ahead, self.reached = {}, {}, {}
        self.relinking, self.listened, self.tried = "left", [], []
        self._pools = sxm.pools
        for number, pool in enumerate(sxm.pools.values()):
            pool.handlers["host.call_plugin"] = self._plugin_of(pool)
            for at, host in enumerate(sorted(pool.tables["host"].values(), key=str)):
                host["address"] = "10.%d.0.%d" % (number, at + 1)
                host["software_version"] = {"product_version": "8.3", "platform_version": "3.4.0"}

    def _plugin_of(self, pool):
        def call(host, plugin, function, arguments):
            name = pool.tables["host"][host]["name_label"]
            answer = getattr(self, "_" + function.replace("-", "_"))(name, arguments)
            return json.dumps(answer)

        return call

    def _doctor(self, name, arguments):
        assert arguments == {}
        changes = self.facts.get(name, {})
        if isinstance(changes, Exception):
            raise changes
        if callable(changes):
            changes = changes()
        return dict(
            {
                "version": storage_motion.__version__,
                "installed": {
                    "driver": True,
                    "driver_version": changes.get("version", storage_motion.__version__),
                    "blktap": "3.55",
                    "qcow2_safe": False,
                },
                "packages": {"xapi-core": "25.6", "sm": "3.2"},
                "ports": [32768, 60999],
                "port": 40000 + int(name[-1]) + (10 if name.startswith("l") else 0),
                "room": 8 << 30,
                "journals": [],
                "unreadable": [],
                "read": [],
                "time": time.time() + self.ahead.get(name, 0),
            },
            **changes,
        )

    def _relinking(self, name, arguments):
        return {"state": self.relinking}

    def _doctor_listen(self, name, arguments):
        self.listened.append((name, int(arguments["port"]), int(arguments["expect"])))
        return {"listened": self.facts.get(name, {}).get("listens", True), "heard": 1}

    def _doctor_reach(self, name, arguments):
        names = {
            host["address"]: host["name_label"]
            for pool in self._pools.values()
            for host in pool.tables["host"].values()
        }
        targets = [(names[address], port) for address, port in json.loads(arguments["targets"])]
        self.tried += [(name, goal, port) for goal, port in targets]
        return {
            "found": [self.reached.get((name, goal, port == 443), "open") for goal, port in targets]
        }


@pytest.fixture
def hosts(sxm):
    for pool in sxm.pools.values():
        (record,) = pool.tables["pool"].values()
        record.update(ha_enabled=False)
    return Hosts(sxm)


@pytest.fixture
def paris(sxm, hosts):
    return sxm.pools["paris"]


def bad(seen, check=None):
    """[(level, check, where, what, remedy)] of what is not well, each with a remedy; what a person
    is shown of it fits in 80 columns."""
    found = [one for one in seen.document["findings"] if one["level"] != OK]
    assert all(one["remedy"] for one in found), found
    assert all(one["where"] and one["check"] for one in seen.document["findings"])
    return [
        (one["level"], one["where"], one["what"]) for one in found if check in (None, one["check"])
    ]


def only(seen, check):
    """The one thing that is not well."""
    (found,) = bad(seen)
    assert bad(seen, check) == [found]
    levels = {WARNING: exit_codes.SOME_FAILED, PROBLEM: exit_codes.FAILED}
    assert seen.status == levels[found[0]]
    return found


def test_two_pools_that_are_well(sxm, hosts):
    seen = sxm("doctor", "--to-pool", "lyon", "--json")
    assert bad(seen) == [] and (seen.status, seen.err) == (0, "")
    said = [one["what"] for one in seen.document["findings"]]
    assert "the same on all hosts: platform 8.3, xapi 25.6, sm 3.2, blktap 3.55" in said
    assert "type ext, takes vhd" in said
    assert sorted((name, expect) for name, _, expect in hosts.listened) == [
        ("l1", 2),
        ("p1", 1),
        ("p2", 1),
    ]
    assert {port for _, port, _ in hosts.listened} == {40001, 40002, 40011}
    assert {(one, goal) for one, goal, _ in hosts.tried} == {
        ("p1", "p2"),
        ("p2", "p1"),
        ("p1", "l1"),
        ("p2", "l1"),
    }
    assert len([port for _, _, port in hosts.tried if port == 443]) == 4


def test_a_person_reads_it_in_80_columns(sxm, hosts):
    hosts.facts["p2"] = failure("XENAPI_MISSING_PLUGIN", "sxm.py")
    seen = sxm("doctor")
    assert seen.status == exit_codes.FAILED and seen.err == ""
    assert max(len(line) for line in seen.out.splitlines()) <= 80
    assert "host p2 of paris: has no Storage XenMotion" in seen.out
    assert "What to do: install storage-xenmotion" in seen.out
    assert seen.out.splitlines()[-1].endswith("0 warnings, 1 problem")


@pytest.mark.parametrize(
    "error, told",
    [
        (failure("XENAPI_MISSING_PLUGIN", "sxm.py"), "has no Storage XenMotion"),
        (
            failure("UNKNOWN_XENAPI_PLUGIN_FUNCTION", "doctor"),
            "has an older version of Storage XenMotion, without doctor",
        ),
        (failure("HOST_OFFLINE", "OpaqueRef:1"), "does not answer: HOST_OFFLINE: OpaqueRef:1"),
        (ConnectionResetError(104, "reset"), "does not answer: NO_ANSWER: reset"),
    ],
)
def test_a_host_without_an_answer_is_a_finding(sxm, hosts, error, told):
    hosts.facts["p2"] = error
    assert only(sxm("doctor", "--json"), "plugin") == (PROBLEM, "host p2 of paris", told)


def test_a_host_that_hangs_holds_nobody_up(sxm, hosts, monkeypatch):
    monkeypatch.setattr(looking, "HOST_TIMEOUT", 0.3)
    over = threading.Event()
    hosts.facts["p2"] = lambda: over.wait(20) and {}
    try:
        level, where, what = only(sxm("doctor", "--json"), "plugin")
    finally:
        over.set()
    assert (level, where) == (PROBLEM, "host p2 of paris")
    assert what == "does not answer: NO_ANSWER: none within 0.3 s"


def test_versions(sxm, hosts):
    hosts.facts["p2"] = {"version": "0.0.1"}
    level, where, what = only(sxm("doctor", "--json"), "version")
    assert (level, where) == (PROBLEM, "pool paris") and "0.0.1: host p2 of paris" in what
    hosts.facts["p1"] = {"version": "0.0.1"}
    level, where, what = only(sxm("doctor", "--json"), "version")
    assert level == WARNING and "the hosts have version 0.0.1, and sxm is" in what
    package = {"version": storage_motion.__version__ + "-1.git"}
    hosts.facts = {"p1": package, "p2": package}
    assert bad(sxm("doctor", "--json")) == [], "a package adds a release to it"


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"driver": False}, "has no driver MirrorSR, so it can send no VM"),
        ({"driver_version": "0.0.1"}, "has MirrorSR 0.0.1 beside the plugin"),
    ],
)
def test_a_driver_that_is_missing_or_another(sxm, hosts, changes, told):
    right = {
        "driver": True,
        "driver_version": storage_motion.__version__,
        "blktap": "3.55",
        "qcow2_safe": True,
    }
    hosts.facts["p1"] = {"installed": dict(right, **changes)}
    level, where, what = only(sxm("doctor", "--json"), "plugin")
    assert (level, where) == (PROBLEM, "host p1 of paris") and what.startswith(told)


def test_software_that_differs(sxm, hosts):
    hosts.facts["p2"] = {"packages": {"xapi-core": "25.6", "sm": "3.3"}}
    assert only(sxm("doctor", "--json"), "software") == (
        WARNING,
        "pool paris",
        "sm differs: 3.2 on p1; 3.3 on p2",
    )


def test_an_unsafe_blktap_matters_where_there_is_qcow2(sxm, hosts, paris):
    add_vdi(paris, by_name(paris, "SR", "shared"), sm_config={"image-format": "qcow2"})
    found = bad(sxm("doctor", "--json"), "software")
    assert [(level, where) for level, where, _ in found] == [
        (WARNING, "host p1 of paris"),
        (WARNING, "host p2 of paris"),
    ]


def test_a_pool_that_is_older(sxm, hosts):
    for host in sxm.pools["lyon"].tables["host"].values():
        host["software_version"] = {"platform_version": "3.2.1"}
    level, where, what = only(sxm("doctor", "--to-pool", "lyon", "--json"), "platform")
    assert (level, where) == (PROBLEM, "pool lyon") and "platform 3.2.1, older than 3.4.0" in what


@pytest.mark.parametrize(
    "ahead, level, told",
    [
        ({"p2": 60}, WARNING, "its clock is 1 min"),
        ({"p2": 4000}, PROBLEM, "its clock is 1 h 06 min"),
        ({"p1": -90, "p2": -90}, WARNING, "this machine's clock is 1 min 30 s ahead of theirs"),
    ],
)
def test_clocks_that_are_apart(sxm, hosts, ahead, level, told):
    hosts.ahead = ahead
    found, _, what = only(sxm("doctor", "--json"), "clocks")
    assert found == level and what.startswith(told)


@pytest.mark.parametrize("room, level", [(1 << 20, PROBLEM), (100 << 20, WARNING)])
def test_no_room_for_journals(sxm, hosts, room, level):
    hosts.facts["p1"] = {"room": room}
    assert only(sxm("doctor", "--json"), "journals")[:2] == (level, "host p1 of paris")


def test_a_host_that_is_disabled_or_down(sxm, hosts, paris):
    record = paris.tables["host"][by_name(paris, "host", "p2")]
    record["enabled"] = False
    assert only(sxm("doctor", "--json"), "hosts")[:2] == (WARNING, "host p2 of paris")
    record["metrics"] = paris.add("host_metrics", live=False)
    assert only(sxm("doctor", "--json"), "hosts")[:2] == (PROBLEM, "host p2 of paris")


def certificate(pool, host, begins, ends, kind="host"):
    form = "%Y%m%dT%H:%M:%SZ"
    day = 86400
    return pool.add(
        "Certificate",
        host=by_name(pool, "host", host),
        type=kind,
        not_before=time.strftime(form, time.gmtime(time.time() + begins * day)),
        not_after=time.strftime(form, time.gmtime(time.time() + ends * day)),
    )


@pytest.mark.parametrize(
    "begins, ends, level, told",
    [
        (-400, -1, PROBLEM, "its certificate ended on"),
        (1, 400, PROBLEM, "its certificate begins only on"),
        (-300, 10, WARNING, "its certificate ends on"),
    ],
)
def test_certificates(sxm, hosts, paris, begins, ends, level, told):
    certificate(paris, "p1", -1, 400)
    certificate(paris, "p2", -1, -1, "ca")
    certificate(paris, "p2", begins, ends, "host_internal")
    found, where, what = only(sxm("doctor", "--json"), "certificates")
    assert (found, where) == (level, "host p2 of paris") and what.startswith(told)


def test_a_xapi_without_certificates(sxm, hosts, paris):
    def unknown():
        raise failure("MESSAGE_METHOD_UNKNOWN", "Certificate.get_all_records")

    paris.handlers["Certificate.get_all_records"] = unknown
    assert bad(sxm("doctor", "--json")) == []


def test_ha(sxm, hosts, paris):
    (record,) = paris.tables["pool"].values()
    record.update(ha_enabled=True, ha_overcommitted=False)
    seen = sxm("doctor", "--json")
    assert bad(seen) == [] and "restarts a VM nowhere" in seen.out
    record.update(ha_overcommitted=True)
    assert only(sxm("doctor", "--json"), "HA")[:2] == (WARNING, "pool paris")


def test_srs(sxm, hosts, paris):
    ref = by_name(paris, "SR", "shared")
    record = paris.tables["SR"][ref]
    record["physical_utilisation"] = record["physical_size"]
    assert only(sxm("doctor", "--json"), "SRs")[2].startswith("only 0 B of 100.0 GiB are free")
    record["physical_utilisation"] = "0"
    pbd = paris.tables["PBD"][record["PBDs"][1]]
    pbd["currently_attached"] = False
    assert only(sxm("doctor", "--json"), "SRs")[2] == "is not plugged to host p2"
    record["PBDs"] = record["PBDs"][:1]
    assert "host p2 has no PBD" in only(sxm("doctor", "--json"), "SRs")[2]
    record["PBDs"] = []
    assert only(sxm("doctor", "--json"), "SRs")[2] == "is detached from all hosts"
    record["type"] = "udev"
    assert bad(sxm("doctor", "--json")) == []


def test_an_sr_whose_disks_cannot_move_is_told(sxm, hosts, paris):
    paris.tables["SR"][by_name(paris, "SR", "shared")]["type"] = "cephfs"
    seen = sxm("doctor", "--json")
    assert bad(seen) == [] and "type cephfs: disks cannot move from or to it" in seen.out


def test_what_sm_has_left(sxm, hosts, paris, monkeypatch):
    monkeypatch.setattr(looking, "PAUSED_FOR", 0.0)
    ref = add_vdi(paris, by_name(paris, "SR", "shared"))
    vdi = paris.tables["VDI"][ref]
    vdi["sm_config"] = {"relinking": "True"}
    assert "SM has left `relinking`" in only(sxm("doctor", "--json"), "SM")[2]
    hosts.relinking = "unknown"
    assert only(sxm("doctor", "--json"), "SM")[0] == WARNING
    hosts.relinking = "none"
    assert bad(sxm("doctor", "--json")) == []
    vdi["sm_config"] = {"paused": "true"}
    assert only(sxm("doctor", "--json"), "SM")[2].startswith("SM has it paused")
    vdi["current_operations"] = {"OpaqueRef:1": "snapshot"}
    assert bad(sxm("doctor", "--json")) == []


def test_the_looks_at_one_sr_do_not_turn_each_other_away(sxm, hosts, paris):
    """Whoever finds the SR's lock held answers "unknown" (sm/disks/pauses.py)."""
    for _ in range(12):
        add_vdi(paris, by_name(paris, "SR", "shared"), sm_config={"relinking": "True"})
    lock, met = threading.Lock(), threading.Event()

    def look(name, arguments):
        if not lock.acquire(blocking=False):
            met.set()
            return {"state": "unknown"}
        try:
            met.wait(0.01)  # for who would come meanwhile
            return {"state": "left"}
        finally:
            lock.release()

    hosts._relinking = look
    found = bad(sxm("doctor", "--json"), "SM")
    assert len(found) == 12 and {one[0] for one in found} == {PROBLEM}


def test_few_srs_are_looked_at_at_once(sxm, hosts, paris, monkeypatch):
    for _ in range(3 * looking.SRS_AT_ONCE):
        sr = paris.add("SR", **dict(paris.tables["SR"][by_name(paris, "SR", "shared")]))
        add_vdi(paris, sr, sm_config={"relinking": "True"})
    at_it, most, too_many = [], [], threading.Event()

    def look(name, arguments):
        at_it.append(1)
        most.append(len(at_it))
        if len(at_it) > looking.SRS_AT_ONCE:
            too_many.set()
        too_many.wait(0.02)  # for who would come meanwhile
        at_it.pop()
        return {"state": "left"}

    hosts._relinking = look
    sxm("doctor", "--json")
    assert 1 < max(most) <= looking.SRS_AT_ONCE


def test_another_certificate_in_the_middle_of_the_look_is_a_finding(sxm, hosts, monkeypatch):
    def changed(pool):
        raise CertificateMismatch("a", "b")

    monkeypatch.setattr(looking, "look", changed)
    seen = sxm("doctor", "--json")
    assert seen.status == exit_codes.NO_CONNECTION
    assert "SXM_CERTIFICATE_MISMATCH" in seen.document["findings"][0]["what"]


def journal(**changes):
    return dict(
        {
            "side": "source",
            "migration": ID,
            "vm": "v",
            "vm_name": "web",
            "state": "running",
            "alive": False,
            "left": [],
            "updated": 1.0,
        },
        **changes,
    )


@pytest.mark.parametrize(
    "changes, level, told",
    [
        ({}, PROBLEM, "migration %s of VM web has not ended, and nobody drives it" % ID),
        (
            {"state": "failed", "left": ["receive: x"]},
            PROBLEM,
            "migration %s of VM web has left: receive: x" % ID,
        ),
        ({"side": "destination"}, WARNING, "it has begun to receive a VM of migration %s" % ID),
    ],
)
def test_a_migration_without_an_end(sxm, hosts, changes, level, told):
    hosts.facts["p2"] = {"journals": [journal(**changes)]}
    found, where, what = only(sxm("doctor", "--json"), "leftovers")
    assert (found, where) == (level, "host p2 of paris") and what.startswith(told)


def test_a_migration_that_goes_on_is_no_leftover(sxm, hosts, paris):
    vdi = add_vdi(paris, by_name(paris, "SR", "shared"), other_config={left_marks.CLAIM: ID})
    add_vm(
        paris,
        by_name(paris, "host", "p1"),
        [vdi],
        by_name(paris, "network", "guests"),
        other_config={left_marks.CLAIM: ID},
        blocked_operations={"start": blocking.reason(ID)},
    )
    hosts.facts["p1"] = {"journals": [journal(alive=True)]}
    hosts.facts["l1"] = {"journals": [journal(side="destination")]}
    seen = sxm("doctor", "--to-pool", "lyon", "--json")
    assert bad(seen) == [] and "migration %s of VM web goes on" % ID in seen.out


def test_a_disk_that_is_left_open(sxm, hosts, paris):
    vdi = uuid_of(paris, "VDI", add_vdi(paris, by_name(paris, "SR", "shared")))
    hosts.facts["p2"] = {"read": [vdi]}
    level, where, what = only(sxm("doctor", "--json"), "leftovers")
    assert (level, where) == (WARNING, "host p2 of paris")
    assert vdi in what and "is open on it to be read, and no migration reads it" in what


def test_a_journal_that_cannot_be_trusted(sxm, hosts):
    hosts.facts["p1"] = {"unreadable": [["SXM_JOURNAL", "/x.json", "not JSON"]]}
    assert "SXM_JOURNAL: /x.json" in only(sxm("doctor", "--json"), "leftovers")[2]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"other_config": {left_marks.CLAIM: ID}}, "is claimed by migration %s" % ID),
        (
            {"blocked_operations": {"start": blocking.reason(ID), "copy": "by me"}},
            "has operations blocked by migration %s" % ID,
        ),
    ],
)
def test_marks_on_a_vm(sxm, hosts, paris, changes, told):
    host, network = by_name(paris, "host", "p1"), by_name(paris, "network", "guests")
    add_vm(paris, host, [], network, **changes)
    seen = sxm("doctor", "--json")
    level, where, what = only(seen, "leftovers")
    assert level == PROBLEM and where.startswith("VM web (") and what.startswith(told)
    assert "The source is lost" in seen.out
    hosts.facts["p2"] = {"journals": [journal()]}
    assert "sxm -s paris recover %s" % ID in sxm("doctor", "--json").out


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"other_config": {left_marks.CLAIM: ID}}, "has the mark of migration"),
        ({"other_config": {"sxm_receives": ID}}, "has the mark of migration"),
        ({"sm_config": {"paused": "storage-motion"}}, "has a lock of ours"),
        ({"sm_config": {"relinking": "sxm " + ID}}, "has a lock of ours"),
    ],
)
def test_marks_on_a_vdi(sxm, hosts, paris, changes, told):
    add_vdi(paris, by_name(paris, "SR", "shared"), **changes)
    level, where, what = only(sxm("doctor", "--json"), "leftovers")
    assert level == PROBLEM and where.startswith("VDI disk (") and what.startswith(told)


@pytest.mark.parametrize(
    "found, xapi, told",
    [
        (ports.SILENT, False, "a port as receivers have it of host p2 of paris (10.0.0.2) gets no"),
        (ports.REFUSED, True, "port 443 of host p2 of paris (10.0.0.2) is refused"),
        (ports.UNREACHABLE, False, "is rejected on its way"),
        (ports.OTHER, False, "is answered by somebody else"),
    ],
)
def test_ports(sxm, hosts, found, xapi, told):
    hosts.reached[("p1", "p2", xapi)] = found
    level, where, what = only(sxm("doctor", "--json"), "ports")
    assert (level, where) == (PROBLEM, "host p1 of paris") and told in what


def test_a_host_that_could_not_listen(sxm, hosts):
    hosts.facts["p2"] = {"listens": False}
    hosts.reached[("p1", "p2", False)] = ports.REFUSED
    level, where, what = only(sxm("doctor", "--json"), "ports")
    assert level == WARNING and "could not be tried: its port" in what


def test_a_pool_that_cannot_be_reached(sxm, hosts):
    seen = sxm("doctor", "--to-pool", "10.9.9.9", "--json")
    assert only(seen, "toolstack")[:2] == (PROBLEM, "pool 10.9.9.9")
    alone = sxm("-s", "10.9.9.9", "doctor", "--json")
    assert alone.status == exit_codes.NO_CONNECTION
    assert [where for _, where, _ in bad(alone, "toolstack")] == ["pool 10.9.9.9"]


def test_a_pool_is_not_compared_with_itself(sxm, hosts):
    seen = sxm("doctor", "--to-pool", "paris")
    assert seen.status == exit_codes.NOT_UNDERSTOOD and "that is the same pool" in seen.err


def test_who_may_not_ask_the_plugin_is_told_so(sxm, hosts):
    hosts.facts["p1"] = hosts.facts["p2"] = failure("RBAC_PERMISSION_DENIED", "host.call_plugin")
    seen = sxm("doctor", "--json")
    remedies = [one["remedy"] for one in seen.document["findings"] if one["level"] == PROBLEM]
    assert remedies == ["log in as a pool administrator"] * 2


def test_a_toolstack_that_does_not_answer(sxm, hosts, paris):
    def gone():
        raise ConnectionRefusedError(111, "Connection refused")

    paris.handlers["VDI.get_all_records"] = gone
    seen = sxm("doctor", "--json")
    assert bad(seen) == [
        (PROBLEM, "pool paris", "cannot be looked at: NO_ANSWER: Connection refused")
    ]
    assert seen.status == exit_codes.NO_CONNECTION
