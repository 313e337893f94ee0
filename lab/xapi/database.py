# SPDX-License-Identifier: LGPL-2.1-only
"""The pool's database: objects by class and reference, both sides of every relation, and what
changed when.

All in memory, under one lock; `on_disk.Store` keeps a copy. Every change takes the next
*generation*, so that event.from can be answered from the generations alone, and so that it is known
what is on disk.
"""

import threading
import uuid as uuids
from collections import deque, namedtuple

from lab.xapi import tables
from lab.xapi.failures import Failure
from lab.xapi.schema import CLASSES, KEPT, NULL, coerce

Change = namedtuple("Change", "class_name ref operation generation")

_REMEMBERED_DELETIONS = 10000


def new_ref():
    return "OpaqueRef:%s" % uuids.uuid4()


def new_uuid():
    return str(uuids.uuid4())


def _copied(value):
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list) else value


class Database:
    """One pool's objects. Every method is atomic and may be called from any thread."""

    def __init__(self):
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.generation = 1
        self._rows = {name: {} for name in CLASSES}
        self._uuids = {name: {} for name in CLASSES}
        self._history = {}  # ref -> [class, created, modified]
        self._deleted = deque(maxlen=_REMEMBERED_DELETIONS)
        # the last generation in which this thread changed structure
        self._structural = threading.local()
        self._watchers = {}  # (class, field) -> functions of a ref
        self.kept_generation = 0  # of the last change to anything that is kept on disk

    # --- reading

    def exists(self, class_name, ref):
        with self.lock:
            return ref in self._rows[class_name]

    def get(self, class_name, ref, field):
        """A field's value (a copy). Raises HANDLE_INVALID."""
        with self.lock:
            return _copied(self._row(class_name, ref)[field])

    def record(self, class_name, ref):
        """All fields of an object that a client may see (copies). Raises HANDLE_INVALID."""
        with self.lock:
            row = self._row(class_name, ref)
            return {name: _copied(row[name]) for name in row if name in CLASSES[class_name]}

    def refs(self, class_name):
        with self.lock:
            return list(self._rows[class_name])

    def records(self, class_name):
        """{ref: record} of every object of the class."""
        with self.lock:
            return {ref: self.record(class_name, ref) for ref in self._rows[class_name]}

    def where(self, class_name, **fields):
        """The refs of the objects with these values, oldest first."""
        with self.lock:
            return [
                ref
                for ref, row in self._rows[class_name].items()
                if all(row[name] == value for name, value in fields.items())
            ]

    def by_uuid(self, class_name, uuid):
        """The ref of the object with that uuid. Raises UUID_INVALID."""
        with self.lock:
            try:
                return self._uuids[class_name][uuid]
            except KeyError:
                raise Failure("UUID_INVALID", class_name, uuid) from None

    def find_uuid(self, class_name, uuid):
        """The same, or None."""
        with self.lock:
            return self._uuids[class_name].get(uuid)

    def _row(self, class_name, ref):
        try:
            return self._rows[class_name][ref]
        except KeyError:
            raise Failure("HANDLE_INVALID", class_name, ref) from None

    # --- writing

    def create(self, class_name, fields, ref=None):
        """Make an object; fields not given get their defaults, a uuid is made where there is none.
        Answers its ref."""
        ref = ref or new_ref()
        row = {name: _copied(field.default) for name, field in KEPT[class_name].items()}
        row.update((name, _copied(value)) for name, value in fields.items())
        row["uuid"] = row["uuid"] or new_uuid()
        with self.lock:
            if row["uuid"] in self._uuids[class_name]:
                raise Failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", class_name, "uuid", row["uuid"])
            self._rows[class_name][ref] = row
            self._uuids[class_name][row["uuid"]] = ref
            generation = self._advance(lazy=False, kept=class_name not in tables.TRANSIENT)
            self._history[ref] = [class_name, generation, generation]
            for name in row:
                self._relate(class_name, ref, name, NULL, row[name])
            self._watch(class_name, ref, row)
        return ref

    def destroy(self, class_name, ref):
        """Remove an object. References to it stay, dangling, as in xapi. Raises HANDLE_INVALID."""
        with self.lock:
            row = self._row(class_name, ref)
            for name in row:
                self._relate(class_name, ref, name, row[name], NULL)
            del self._rows[class_name][ref]
            del self._uuids[class_name][row["uuid"]]
            created = self._history.pop(ref)[1]
            generation = self._advance(lazy=False, kept=class_name not in tables.TRANSIENT)
            self._deleted.append((created, Change(class_name, ref, "del", generation)))

    def set(self, class_name, ref, **fields):
        """Set fields. Unchanged values make no event. Raises HANDLE_INVALID."""
        with self.lock:
            row = self._row(class_name, ref)
            changed = {name: value for name, value in fields.items() if row[name] != value}
            if not changed:
                return
            if "uuid" in changed:
                del self._uuids[class_name][row["uuid"]]
                self._uuids[class_name][changed["uuid"]] = ref
            for name, value in changed.items():
                before, row[name] = row[name], _copied(value)
                self._relate(class_name, ref, name, before, value)
            fields = [KEPT[class_name][name] for name in changed]
            self._touch(
                ref, all(field.lazy for field in fields), any(field.kept for field in fields)
            )
            self._watch(class_name, ref, changed)

    def add_to(self, class_name, ref, field, key, value):
        """Add a pair to a map. Raises MAP_DUPLICATE_KEY as xapi does when the key is there, even
        with the same value."""
        with self.lock:
            pairs = self.get(class_name, ref, field)
            if key in pairs:
                raise Failure("MAP_DUPLICATE_KEY", class_name, field, ref, key)
            pairs[key] = value
            self.set(class_name, ref, **{field: pairs})

    def remove_from(self, class_name, ref, field, key):
        """Take a key out of a map, or an item out of a set; one that is not there is no error."""
        with self.lock:
            items = self.get(class_name, ref, field)
            if isinstance(items, dict):
                items.pop(key, None)
            elif key in items:
                items.remove(key)
            self.set(class_name, ref, **{field: items})

    def append(self, class_name, ref, field, item):
        """Add an item to a set; one that is there already is no error."""
        with self.lock:
            items = self.get(class_name, ref, field)
            if item not in items:
                self.set(class_name, ref, **{field: items + [item]})

    def on_change(self, class_name, fields, function):
        """Call `function(ref)`, with the lock held, after a change of any of these fields and after
        a creation."""
        for field in fields:
            self._watchers.setdefault((class_name, field), []).append(function)

    def _watch(self, class_name, ref, changed):
        functions = []
        for name in changed:
            functions += [
                function
                for function in self._watchers.get((class_name, name), ())
                if function not in functions
            ]
        for function in functions:
            function(ref)

    def _relate(self, class_name, ref, field, before, after):
        other = tables.BACK_REFERENCES.get((class_name, field))
        if other is None or before == after:
            return
        other_class, other_field = other
        for target, present in ((before, False), (after, True)):
            row = self._rows[other_class].get(target)
            if row is None or (ref in row[other_field]) == present:
                continue
            if present:
                row[other_field].append(ref)
            else:
                row[other_field].remove(ref)
            self._touch(target, False, CLASSES[other_class][other_field].kept)

    def touch(self, class_name, ref):
        """Have an object count as modified, with its fields as they are."""
        with self.lock:
            self._row(class_name, ref)
            self._touch(ref, True, False)

    def _touch(self, ref, lazy, kept):
        self._history[ref][2] = self._advance(lazy, kept)

    def _advance(self, lazy, kept):
        self.generation += 1
        if kept:
            self.kept_generation = self.generation
            if not lazy:
                self._structural.generation = self.generation
        self.changed.notify_all()
        return self.generation

    def own_structural_generation(self):
        """The generation of the last change by the calling thread that must be on disk before it is
        acknowledged."""
        return getattr(self._structural, "generation", 0)

    # --- what changed

    def changes_since(self, generation):
        """The Changes after `generation`, one per object, oldest first (call with the lock
        held)."""
        changes = []
        for ref, (class_name, created, modified) in self._history.items():
            if modified > generation:
                changes.append(
                    Change(class_name, ref, "add" if created > generation else "mod", modified)
                )
        for created, change in self._deleted:
            if change.generation > generation >= created:
                changes.append(change)
        return sorted(changes, key=lambda change: change.generation)

    def counts(self, class_names):
        with self.lock:
            return {name: len(self._rows[name]) for name in class_names}

    # --- the copy on disk

    def snapshot(self):
        """(generation, everything that outlives this process as one JSON-able object)."""
        with self.lock:
            rows = {
                name: {
                    ref: {
                        field.name: _copied(row[field.name])
                        for field in fields.values()
                        if field.kept
                    }
                    for ref, row in self._rows[name].items()
                }
                for name, fields in KEPT.items()
                if name not in tables.TRANSIENT
            }
            return self.generation, {"generation": self.generation, "objects": rows}

    def load(self, saved):
        """Take over what `snapshot` gave an earlier process; a token of an event.from then sees
        every object as changed."""
        with self.lock:
            self.generation = saved["generation"] + 1000000
            for class_name, rows in saved["objects"].items():
                fields = KEPT.get(class_name, {})
                for ref, row in rows.items():
                    kept = {name: _copied(field.default) for name, field in fields.items()}
                    kept.update(
                        (name, coerce(value, fields[name].type, name))
                        for name, value in row.items()
                        if name in fields
                    )
                    self._rows[class_name][ref] = kept
                    self._uuids[class_name][kept["uuid"]] = ref
                    self._history[ref] = [class_name, saved["generation"], self.generation]
