# SPDX-License-Identifier: LGPL-2.1-only
"""A VM that is suspended, moved, and resumed."""

from lab.pools import vms
from tests.e2e.scene import Scene

NULL = "OpaqueRef:NULL"


class Sleeper(Scene):
    """A VM that is suspended, moved and resumed."""

    @property
    def vm(self):
        return self.pool.xapi.VM.get_by_uuid(self.uuid)

    def suspend(self):
        """What it had had acknowledged by then."""
        sr = self.pool.sr(self.host.name, "fast")
        self.pool.xapi.VM.set_suspend_SR(self.vm, sr)
        written = self.guest.status()["writes_acknowledged"]
        self.pool.xapi.VM.suspend(self.vm)
        record = self.record
        assert (record["power_state"], record["resident_on"]) == ("Suspended", NULL)
        assert self.pool.xapi.VDI.get_type(record["suspend_VDI"]) == "suspend"
        return written

    def resume(self, written):
        """It goes on where it was: its memory knows what it has written."""
        record = self.record
        assert record["power_state"] == "Suspended"
        assert set(record["blocked_operations"].values()) <= {vms.BY_ITS_USER}
        self.pool.xapi.VM.resume(self.vm, False, False)
        self.settle()
        assert self.guest.status()["writes_acknowledged"] >= written
        self.assert_runs()
        assert self.record["suspend_VDI"] == NULL
        self.assert_nothing_left()
