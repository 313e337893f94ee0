# SPDX-License-Identifier: LGPL-2.1-only
"""A plan, an id and a task, for the tests of a migration."""

from storage_motion.plan.plan import Disk, Plan

ID = "11111111-2222-3333-4444-555555555555"
PASSWORD = "correct horse"


class FakeTask:
    def __init__(self):
        self.ended = None

    def progress(self, fraction):
        pass

    def cancel_asked(self):
        return False

    def finish(self, status, error=()):
        self.ended = (status, list(error))


def make_plan(**changes):
    disk = Disk(
        key="k",
        vbd="b",
        device="xvda",
        name_label="n",
        name_description="",
        size=1024,
        data=1024,
        location="l",
        source_sr="s",
        source_sr_name="s",
        destination_sr="d",
        destination_sr_name="d",
        target="",
        type="user",
        sharable=False,
        other_config={},
        xenstore_data={},
    )
    fields = dict(
        kind="cross-pool",
        live=True,
        vm="v",
        vm_name="web",
        source_host="h",
        source_host_name="h",
        destination_host="i",
        destination_host_name="i",
        master="https://x",
        network="n",
        address="a",
        disks=[disk],
        staying=[],
        cds=[],
        vifs=[],
        check_cpu=True,
        compress=False,
    )
    return Plan(**dict(fields, **changes))
