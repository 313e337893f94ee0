# SPDX-License-Identifier: LGPL-2.1-only
"""A host's xcp-rrdd: the statistics (RRDs) of the VMs that run there, in its memory, and those that
are archived, files of the master's (rrdd_server.ml, rrdd_monitor.ml, rrdd_shared.ml).

Its memory is a directory that a new boot would clear: it outlives xapi, as the real one's does.
What it notes of a VM, each five seconds, it notes here when it is asked: that nothing is known. Its
socket is served by this host's xapi, and so is gone while that is.
"""

import gzip
import os
import re
import threading
import time
import xml.etree.ElementTree

from lab.xapi.failures import Failure
from lab.xapi.on_disk import replace

SOCKET = "/var/lib/xcp/xcp-rrdd"
MEMORY = "/run/xcp-rrdd"
ARCHIVE = "/var/lib/xcp/blobs/rrds"
STEP = 5  # seconds
# (rows, steps of each): rrdd_shared.ml, timescales
TIMESCALES = ((120, 1), (120, 12), (168, 720), (366, 17280))
SOURCES = ("cpu0", "memory")
_FIELDS = ["name", "type", "minimal_heartbeat", "min", "max", "last_ds", "value", "unknown_sec"]
# what a real rrdd wants in each source of what it is sent, and leaves out of what it answers
# (rrd.ml, xml_to_output; docs/checked-by-hand.md)
_BETWEEN_RRDDS = "last_updated"
UNKNOWN = "NaN"


def document(updated, value=lambda rows, row, column: UNKNOWN):
    """An RRD (XML), as rrd.ml writes it. `updated`: seconds since the epoch; `value(rows, row,
    column)`: that of a row, the oldest is 0, of the archive with so many rows."""
    sources = "".join(
        "<ds><name>%s</name><type>GAUGE</type><minimal_heartbeat>300.0000</minimal_heartbeat>"
        "<min>0.0</min><max>Infinity</max><last_ds>0.0</last_ds><value>0.0</value>"
        "<unknown_sec>0</unknown_sec></ds>" % name
        for name in SOURCES
    )
    archives = "".join(
        "<rra><cf>AVERAGE</cf><pdp_per_row>%d</pdp_per_row><params><xff>0.5000</xff></params>"
        "<cdp_prep>%s</cdp_prep><database>%s</database></rra>"
        % (
            steps,
            "<ds><primary_value>0.0</primary_value><secondary_value>0.0</secondary_value>"
            "<value>0.0</value><unknown_datapoints>0</unknown_datapoints></ds>" * len(SOURCES),
            "".join(
                _row([value(rows, row, column) for column in range(len(SOURCES))])
                for row in range(rows)
            ),
        )
        for rows, steps in TIMESCALES
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rrd><version>0003</version><step>%d</step>'
        "<lastupdate>%d</lastupdate>%s%s</rrd>" % (STEP, updated, sources, archives)
    ).encode()


def _row(values):
    return "<row>%s</row>" % "".join("<v>%s</v>" % value for value in values)


def check(body):
    """What rrdd makes of what it is sent, as it answers it: the RRD up to its end, whatever
    follows. Raises ValueError for what it cannot read (rrd.ml, from_xml)."""
    end = body.find(b"</rrd>")
    if end < 0:
        raise ValueError("it ends too early")
    body = body[: end + len(b"</rrd>")]
    try:
        rrd = xml.etree.ElementTree.fromstring(body)
    except xml.etree.ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    tags = [element.tag for element in rrd]
    sources, archives = rrd.findall("ds"), rrd.findall("rra")
    expected = ["version", "step", "lastupdate"] + ["ds"] * len(sources) + ["rra"] * len(archives)
    if rrd.tag != "rrd" or tags != expected or not archives:
        raise ValueError("the elements of it are %s" % sorted(set(tags)))
    for source in sources:
        if [field.tag for field in source] != _FIELDS + [_BETWEEN_RRDDS]:
            raise ValueError("a data source is not one")
    for archive in archives:
        if [part.tag for part in archive] != [
            "cf",
            "pdp_per_row",
            "params",
            "cdp_prep",
            "database",
        ]:
            raise ValueError("an archive is not one")
        for row in archive.find("database"):
            if [float(value.text) for value in row] and len(row) != len(sources):
                raise ValueError("a row has %d values" % len(row))
    name = _BETWEEN_RRDDS.encode()
    return re.sub(b"<%s>[^<]*</%s>" % (name, name), b"", body)


def advanced(rrd, now):
    """The RRD (XML) at `now`, in seconds since the epoch: the oldest rows have given way to new
    ones, of which nothing is known."""
    updated = int(re.search(rb"<lastupdate>(\d+)</lastupdate>", rrd)[1])
    now = max(updated, int(now))

    def move_on(found):
        interval = STEP * int(found[1])
        rows = re.findall(rb"<row>.*?</row>", found[3])
        columns = rows[0].count(b"<v>")
        new = min(len(rows), now // interval - updated // interval)
        rows = rows[new:] + [_row([UNKNOWN] * columns).encode()] * new
        return b"<pdp_per_row>%s</pdp_per_row>%s<database>%s</database>" % (
            found[1],
            found[2],
            b"".join(rows),
        )

    rrd = re.sub(rb"<pdp_per_row>(\d+)</pdp_per_row>(.*?)<database>(.*?)</database>", move_on, rrd)
    return re.sub(rb"<lastupdate>\d+<", b"<lastupdate>%d<" % now, rrd)


class Rrdd:
    """Of the host whose dom0 has `root`. `xenops(method, members)`: asks its xenopsd."""

    def __init__(self, root, xenops):
        self._root = root
        self._xenops = xenops
        self._lock = threading.RLock()

    def find(self, vm):
        """The RRD (XML) of a VM (its UUID) that is in memory, as it is now; or None. A VM that runs
        here has one."""
        path = self._in_memory(vm)
        with self._lock:
            rrd, now = _read(path), time.time()
            if self._runs(vm):
                rrd = advanced(rrd, now) if rrd else document(now)
                self.replace(vm, rrd)
            return rrd

    def replace(self, vm, rrd):
        """Have it in memory, in place of what there is."""
        self._write(self._in_memory(vm), rrd)

    def give_up(self, vm):
        """Out of the memory: the RRD, or None."""
        with self._lock:
            rrd = _read(self._in_memory(vm))
            if rrd is not None:
                os.unlink(self._in_memory(vm))
            return rrd

    def archived(self, vm):
        """The RRD (XML) of this host's archive, or None."""
        packed = _read(self._in_archive(vm))
        return packed and gzip.decompress(packed)

    def archive(self, vm, rrd):
        """Keep it there."""
        self._write(self._in_archive(vm), gzip.compress(rrd, 1))

    def push(self, vm):
        """Have what is archived here in memory, as a VM is about to run: there is no more than
        that of it (push_rrd_local)."""
        rrd = self.archived(vm)
        if rrd is not None:
            self.replace(vm, rrd)

    def remove(self, vm):
        """Delete what is archived."""
        if os.path.exists(self._in_archive(vm)):
            os.unlink(self._in_archive(vm))

    def _runs(self, vm):
        try:
            state = self._xenops("VM.stat", {"debug_info": "lab-rrdd", "id": vm})
        except Failure:
            return False
        return state["power_state"] in ("Running", "Paused")

    def _in_memory(self, vm):
        return "%s%s/%s.xml" % (self._root, MEMORY, os.path.basename(vm))

    def _in_archive(self, vm):
        return "%s%s/%s.gz" % (self._root, ARCHIVE, os.path.basename(vm))

    def _write(self, path, content):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with self._lock:
            replace(path, content)


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
