# SPDX-License-Identifier: LGPL-2.1-only
"""Snapshots of a disk in mid-move: ours go, whoever was killed; one that the user took meanwhile
stays, and loses our mark."""

import types

import pytest

from fake_pool import add_sr, add_vdi, make_pool, uuid_of
from storage_motion.errors import NotDurable
from storage_motion.journal import steps
from storage_motion.migration import mover_handle, snapshots
from storage_motion.migration.phases import claim, cleanup, copying, sync
from storage_motion.plan.checks import CLAIM
from storage_motion.sm.smapi import MIRROR_MARK

ID, OTHER = "11111111-2222-3333-4444-555555555555", "11111111-2222-3333-4444-666666666666"
TARGET = "/run/sxm/%s/m0.nbd"


class Source:
    """A source pool with one disk in mid-move, and a Migration of it as far as snapshots are
    concerned."""

    def __init__(self):
        self.pool = make_pool("A", ["a1"])
        self.sr = add_sr(self.pool, "sr", [])
        self.vdi = add_vdi(self.pool, self.sr, other_config={CLAIM: ID, "mine": "1"})
        self.disk = types.SimpleNamespace(key=uuid_of(self.pool, "VDI", self.vdi), tracked=False)
        self.entry = {"snapshot": None, "gate": steps.OPEN}
        self.m = types.SimpleNamespace(
            id=ID,
            guest_closes=lambda: None,
            source=self.pool,
            plan=types.SimpleNamespace(live=True, disks=[]),
            disk=lambda key: self.entry,
            source_vdi=lambda disk: self.vdi,
            note=lambda key, **fields: self.entry.update(fields),
        )

    def snapshot(self, **other_config):
        """Take one, as xapi does: with the disk's other_config."""
        disk = self.pool.tables["VDI"][self.vdi]
        ref = add_vdi(
            self.pool,
            self.sr,
            other_config=dict(disk["other_config"], **other_config),
            is_a_snapshot=True,
        )
        disk["snapshots"] = disk["snapshots"] + [ref]
        return ref

    def other_config(self, ref):
        """That of a snapshot; None if it is no more."""
        return self.pool.tables["VDI"].get(ref, {}).get("other_config")


@pytest.fixture
def source():
    return Source()


def test_ours_go_by_what_the_journal_knows_and_by_the_mirror_they_were_taken_for(source):
    known, unnoted = source.snapshot(), source.snapshot(**{MIRROR_MARK: TARGET % ID})
    source.entry["snapshot"] = uuid_of(source.pool, "VDI", known)
    snapshots.drop(source.m, source.disk)
    assert source.other_config(known) is None and source.other_config(unnoted) is None
    assert source.entry["snapshot"] is None


@pytest.mark.parametrize("more", [{}, {MIRROR_MARK: TARGET % OTHER}, {MIRROR_MARK: ""}])
def test_anybody_elses_stay_and_lose_our_mark(source, more):
    theirs = source.snapshot(**more)
    snapshots.drop(source.m, source.disk)
    assert source.other_config(theirs) == dict({"mine": "1"}, **more)


def test_the_mark_and_all_of_ours_go_before_the_disk_does(source):
    theirs = source.snapshot()
    ours = [
        source.snapshot(**{MIRROR_MARK: target % ID}) for target in (TARGET, "/run/sxm/%s/m0-1.nbd")
    ]
    cleanup._destroy_disk(source.m, source.disk)
    assert source.vdi not in source.pool.tables["VDI"]
    assert source.other_config(theirs) == {"mine": "1"} and not any(map(source.other_config, ours))


def test_each_try_has_a_secondary_of_its_own(monkeypatch, tmp_path):
    # By it `vdi_mirror_start` tells its own snapshot from one of an earlier try, which lacks what
    # was written since.
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    assert (
        len(
            {
                mover_handle.MoverHandle(ID, "k", index, tries).secondary
                for index in (0, 1, 10)
                for tries in (0, 1, 10)
            }
        )
        == 9
    )


def test_a_disk_that_is_made_anew_keeps_its_snapshots(source, monkeypatch):
    entry = source.entry
    entry.update(state="broken", mover={"pid": 1, "started": 1}, saved=5)
    ours = source.snapshot(**{MIRROR_MARK: TARGET % ID})
    ended = []
    monkeypatch.setattr(
        sync,
        "_END",
        tuple((name, lambda m, disk, name=name: ended.append(name)) for name, _ in sync._END),
    )
    monkeypatch.setattr(
        sync.receive, "reopen", lambda m, broken: ended.append("opened again at the destination")
    )
    source.m.plan.disks = [source.disk]
    source.m.vm = lambda: source.pool.add("VM", power_state="Running")
    sync.clear_broken(source.m)
    sync.clear_broken(source.m)
    assert source.other_config(ours) is not None
    assert (
        ended == ["mover", "mirror", "copy", "lock", "opened again at the destination"] * 2
        and entry["given_up"] == 2
        and entry["saved_before"] == 5
    )


def test_a_snapshot_of_another_migration_keeps_its_mark(source):
    theirs = source.snapshot(**{CLAIM: OTHER})
    claim.unmark_snapshots(source.m, source.vdi)
    assert source.other_config(theirs) == {CLAIM: OTHER, "mine": "1"}


def test_one_whose_record_xapi_has_lost_is_found_by_a_scan(source):
    """It does not say any more of which disk it is, nor that it is ours; the journal does."""
    known = source.snapshot()
    source.entry["snapshot"] = uuid_of(source.pool, "VDI", known)
    record, scanned = source.pool.tables["VDI"].pop(known), []
    source.pool.tables["VDI"][source.vdi]["snapshots"] = []
    source.disk.source_sr = uuid_of(source.pool, "SR", source.sr)

    def scan(sr):
        scanned.append(sr)
        source.pool.tables["VDI"][known] = dict(record, other_config={}, is_a_snapshot=False)

    source.pool.handlers["SR.scan"] = scan
    snapshots.drop(source.m, source.disk)
    assert (
        scanned == [source.sr]
        and known not in source.pool.tables["VDI"]
        and source.entry["snapshot"] is None
    )


@pytest.mark.parametrize("scan_finds", [True, False])
def test_one_that_xapi_forgets_before_it_is_on_disk_is_looked_for(source, monkeypatch, scan_finds):
    """It was killed right behind the snapshot: that is copied all the same, if a scan finds it."""
    pool, taken = source.pool, []
    source.disk.source_sr = uuid_of(pool, "SR", source.sr)
    pool.sync()

    def sm(m, disk, command, vdi, args=(), timeout=None):
        taken.append((source.snapshot(), None))
        taken[0] = (taken[0][0], dict(pool.tables["VDI"][taken[0][0]]))
        return uuid_of(pool, "VDI", taken[0][0])

    def scan(sr):
        if scan_finds:
            pool.tables["VDI"][taken[0][0]] = dict(
                taken[0][1], other_config={}, is_a_snapshot=False
            )

    crashes = [pool.goes_back]
    monkeypatch.setattr(copying, "ask", sm)
    monkeypatch.setattr(
        sync.durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    pool.handlers["SR.scan"] = scan
    source.m.closed = lambda: None
    mirror = lambda: sync._mirror(source.m, source.disk, types.SimpleNamespace(secondary="/m0.nbd"))  # noqa: E731
    if not scan_finds:
        with pytest.raises(NotDurable):
            mirror()
        return
    snapshot = mirror()
    pool.goes_back()
    assert snapshot == source.entry["snapshot"] and taken[0][0] in pool.tables["VDI"]


@pytest.mark.parametrize(
    "tries, nameless, unfinished, lost",
    [
        (0, [], [], []),
        (0, ["n1"], [], ["n1"]),
        (0, ["n1"], ["u1", "u2"], ["n1", "u1", "u2"]),
        (0, ["n1", "n2"], ["u1"], ["u1"]),
        (1, ["n1", "n2"], ["u1"], ["n1", "n2", "u1"]),
        (1, ["n1", "n2", "n3"], [], []),
    ],
)
def test_those_that_xapi_has_not_noted_as_such_are_noted_here(
    source, monkeypatch, tries, nameless, unfinished, lost
):
    """As many as there can be: more are somebody's."""
    asked = []
    source.disk.source_sr = "sr"
    monkeypatch.setattr(
        snapshots.sr_master,
        "lost_snapshots",
        lambda *given: (asked.append(given[1:]), {"nameless": nameless, "unfinished": unfinished})[
            1
        ],
    )
    snapshots._note_lost(source.m, source.disk)
    assert asked == [] and "lost" not in source.entry, "nothing was begun"
    source.entry.update(snapshot_since=1000.25, given_up=tries, snapshot="known")
    snapshots._note_lost(source.m, source.disk)
    assert asked == [("sr", source.disk.key, 1000.25)]
    assert source.entry["lost"] == lost and source.entry["snapshot_since"] is None


def test_they_go_together(source):
    noted, lost = source.snapshot(), [add_vdi(source.pool, source.sr) for _ in range(2)]
    source.entry.update(
        snapshot=uuid_of(source.pool, "VDI", noted),
        lost=[uuid_of(source.pool, "VDI", ref) for ref in lost],
    )
    snapshots.drop(source.m, source.disk)
    assert not {noted, *lost} & set(source.pool.tables["VDI"])
    assert source.entry["snapshot"] is None and source.entry["lost"] == []


@pytest.mark.parametrize("given_up, kept", [(0, False), (1, True)])
def test_when_the_first_try_was_begun_is_kept_if_it_was_not_the_last(
    source, monkeypatch, given_up, kept
):
    """What it has left may come about when another xapi is there, at any time."""
    source.entry.update(snapshot_since=1000.25 if given_up else None, given_up=given_up)
    monkeypatch.setattr(
        copying,
        "ask",
        lambda *_, **__: uuid_of(source.pool, "VDI", add_vdi(source.pool, source.sr)),
    )
    monkeypatch.setattr(sync.durable.database, "sync", lambda session: None)
    source.m.closed = lambda: None
    sync._mirror(source.m, source.disk, types.SimpleNamespace(secondary="s"))
    assert source.entry["snapshot_since"] == (1000.25 if kept else None)
