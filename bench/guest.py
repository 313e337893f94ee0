# SPDX-License-Identifier: LGPL-2.1-only
"""The guest: fio's NBD engine, writing at random to the disk at a unix socket."""

import collections
import json
import os
import signal
import subprocess

from bench.engines import url
from bench.stage import established
from tests.eventually import eventually

Load = collections.namedtuple("Load", "name block depth")
Load.__doc__ = """Random writes of `block` bytes (as fio has it), `depth` of them under way."""

FOR_EVER = 600  # seconds


class Guest(object):
    """A fio that writes until it is ended."""

    def __init__(self, stage, socket, load, region, seconds=FOR_EVER, rate=None):
        """`region`: bytes from the disk's begin in which it writes; `rate`: bytes a second that it
        wants to write, None for all it can."""
        self._socket = socket
        self._output = stage.path("fio.json")
        self._bandwidth = stage.path("guest")
        arguments = [
            "fio",
            "--name=w",
            "--ioengine=nbd",
            "--thread",
            "--uri=" + url(socket),
            "--rw=randwrite",
            "--norandommap",
            "--bs=" + load.block,
            "--iodepth=%d" % load.depth,
            "--size=%d" % region,
            "--time_based",
            "--runtime=%d" % seconds,
            "--output-format=json",
            "--output=" + self._output,
        ]
        if rate is not None:
            arguments.append("--rate=%d" % rate)
            arguments += ["--write_bw_log=" + self._bandwidth, "--log_avg_msec=100"]
        self._process = stage.start(arguments)

    def await_writes(self, image):
        """Wait until it writes, seen at the image below its disk."""
        before = os.stat(image).st_mtime_ns
        eventually(
            lambda: os.stat(image).st_mtime_ns != before or self._process.poll() is not None,
            "the guest writes",
            poll=0.005,
        )
        assert self._process.poll() is None, "fio ended"

    def end(self):
        """Have it stop writing, and end.

        Not SIGSTOP: half a request that it has sent would hold the engine up."""
        self._process.send_signal(signal.SIGINT)

    def await_close(self, timeout=30.0):
        """Wait until all its writes are answered, and its disk is closed."""
        eventually(
            lambda: not established(self._socket), "the guest closes its disk", timeout, poll=0.001
        )

    def result(self, timeout):
        """Wait until it has ended: {"iops", "p50", "p99", "longest" (microseconds), "writes"}"""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        with open(self._output) as source:
            text = source.read()
        (job,) = json.loads(text[text.index("{") :])["jobs"]
        assert not job["error"] or self._process.returncode, job["error"]
        write = job["write"]
        times = write["clat_ns"]["percentile"]
        return {
            "iops": write["iops"],
            "p50": times["50.000000"] / 1000,
            "p99": times["99.000000"] / 1000,
            "longest": write["clat_ns"]["max"] / 1000,
            "writes": write["total_ios"],
        }

    def rate_within(self, began, ended):
        """Bytes a second that it wrote between `began` and `ended`, seconds since its own begin."""
        with open(self._bandwidth + "_bw.1.log") as source:
            rows = [line.split(",") for line in source]
        found = [int(row[1]) * 1024 for row in rows if began * 1000 <= int(row[0]) <= ended * 1000]
        return sum(found) / len(found) if found else None
