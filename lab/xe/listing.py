# SPDX-License-Identifier: LGPL-2.1-only
"""`xe <class>-list`: records, filtered by what is on the command line."""

from lab.xe import fields, printing
from lab.xe.errors import failed

NOT_IN_DATABASE = "<not in database>"
STANDARD = ("minimal", "force", "multiple", "all", "trace", "params")
"""Parameters that are no filters."""


class Database:
    """What a listing reads of XenAPI, each class once."""

    CLASS_OF = {
        "VM": "VM",
        "VDI": "VDI",
        "SR": "SR",
        "host": "host",
        "network": "network",
        "snapshot_of": None,
        "snapshots": None,
        "resident_on": "host",
        "affinity": "host",
        "VBDs": "VBD",
        "VIFs": "VIF",
        "PIFs": "PIF",
        "master": "host",
        "default_SR": "SR",
        "resident_VMs": "VM",
        "VDIs": "VDI",
        "PBDs": "PBD",
    }
    """The class that a reference field leads to; None: the record's own."""

    def __init__(self, xapi):
        self._xapi = xapi
        self._classes = {}

    def records(self, name):
        """All records of a class, by ref."""
        if name not in self._classes:
            self._classes[name] = getattr(self._xapi, name).get_all_records()
        return self._classes[name]

    def value(self, record_class, record, field):
        """The raw value of `field` in this record: references followed to uuids or names."""
        value = record[field.source]
        if isinstance(value, dict) and field.access.startswith("S"):
            return list(value.values())  # current operations: by task
        if not field.follow:
            return value
        if field.follow == "host":
            return self._sr_host(value)
        target = self.CLASS_OF[field.source] or record_class
        if isinstance(value, list):
            return [self._follow(target, ref, field.follow) for ref in value]
        if field.name == "vdi-name-label" and record["empty"]:
            return "<EMPTY>"
        return self._follow(target, value, field.follow)

    def _follow(self, target, ref, what):
        found = self.records(target).get(ref)
        if found is None:
            return NOT_IN_DATABASE
        return found["uuid"] if what == "uuid" else found.get("name_label", NOT_IN_DATABASE)

    def _sr_host(self, pbds):
        if len(pbds) == 1:
            return self._follow("host", self.records("PBD")[pbds[0]]["host"], "name")
        return "<shared>" if pbds else NOT_IN_DATABASE


def matches(database, record_class, record, known, key, wanted):
    """True if this record passes one filter of the command line; raises XeError for a field that is
    not there."""
    name, _, within = key.partition(":")
    if name not in known:
        maps = [
            field
            for field in known
            if known[field].access.startswith("M") and key.startswith(field + "-")
        ]
        if not maps:
            raise failed("Unknown field '%s'" % key)
        name = max(maps, key=len)
        within = key[len(name) + 1 :]
    field = known[name]
    value = database.value(record_class, record, field)
    if not within:
        return printing.text(value, field.source) == wanted
    if field.access.startswith("M"):
        return value.get(within) == wanted
    if field.access.startswith("S"):
        if within != "contains":
            raise failed("Invalid syntax for set filtering (should be set-param:contains=key)")
        return wanted in value
    raise failed("Field '%s' is not a set or map" % name)


def select(xapi, kind, filters):
    """(ref, record) of all records of this kind that pass the filters, and the Database that read
    them."""
    described = fields.RECORDS[kind]
    known = {field.name: field for field in described.fields}
    database = Database(xapi)
    selected = list(database.records(described.api).items())
    for key, wanted in list(described.filters.items()) + list(filters.items()):
        selected = [
            (ref, record)
            for ref, record in selected
            if matches(database, described.api, record, known, key, wanted)
        ]
    return selected, database


def list_records(xapi, kind, parameters):
    """The text of `xe <kind>-list` with these parameters."""
    described = fields.RECORDS[kind]
    filters = {key: value for key, value in parameters.items() if key not in STANDARD}
    selected, database = select(xapi, kind, filters)
    wanted = parameters.get("params")
    names = described.default if wanted is None else wanted.split(",")
    shown = [field for field in described.fields if wanted == "all" or field.name in names]
    rows = [
        [
            (
                printing.label(field),
                printing.text(database.value(described.api, record, field), field.source),
            )
            for field in shown
        ]
        for _, record in selected
    ]
    if parameters.get("minimal") == "true":
        return printing.minimal([row[0][1] for row in rows if row]) + "\n"
    return "".join(printing.record(row) + "\n" for row in rows if row)
