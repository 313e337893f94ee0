# SPDX-License-Identifier: LGPL-2.1-only
"""The releases in the field, as far as their storage differs: what a lab's dom0 is a stand-in
for."""

import collections

from lab.blktap.nbd_server import CRASHES
from lab.blktap.records import BLKTAP2, BLKTAP4

Release = collections.namedtuple("Release", "sm lvm blktap version qcow2")
Release.__doc__ = """`sm`: "package" or "flat", how sm is installed; `lvm`: what its classes on LVM are called
("LVHD": LVHDSR, LVHDoISCSISR, LVHDoHBASR); `blktap`: how tap-ctl names the device of a minor, with
%d; `version`: of the package blktap, as rpm tells it; `qcow2`: what its tapdisk does with several
requests for a QCOW2 image (lab/blktap/nbd_server.py).

Where that is None sm has no QCOW2, and the lab's qcow2 images stand for VHDs."""  # noqa: E501

RELEASES = {
    # since May 2026 (docs/facts/xcp-ng-8.3.md)
    "xcp-ng-8.3": Release("flat", "LVM", BLKTAP2, "3.55.5-6.7.xcpng8.3", CRASHES),
    "xenserver-8": Release("flat", "LVHD", BLKTAP2, "3.55.5-9.xs8", None),
    # sm 4.1 and blktap 4: the next ones
    "upstream": Release("package", "LVHD", BLKTAP4, "4.0.8-1.xs9", None),
}
DEFAULT = "upstream"
