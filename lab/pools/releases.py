"""The releases in the field, as far as their storage differs: what a lab's dom0 is a stand-in for."""
import collections

from lab.blktap.records import BLKTAP2, BLKTAP4

Release = collections.namedtuple("Release", "sm lvm blktap")
Release.__doc__ = """`sm`: "package" or "flat", how sm is installed; `lvm`: what its classes on LVM are called
("LVHD": LVHDSR, LVHDoISCSISR, LVHDoHBASR); `blktap`: how tap-ctl names the device of a minor, with %d."""

RELEASES = {
    "xcp-ng-8.3": Release("flat", "LVM", BLKTAP2),     # since May 2026 (shared/facts/xcp-ng-8.3.md)
    "xenserver-8": Release("flat", "LVHD", BLKTAP2),
    "upstream": Release("package", "LVHD", BLKTAP4),   # sm 4.1 and blktap 4: the next ones
}
DEFAULT = "upstream"
