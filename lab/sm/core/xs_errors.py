# SPDX-License-Identifier: LGPL-2.1-only
"""The storage manager's errors by name, with the numbers that xapi shows as
SR_BACKEND_FAILURE_<number>.

Numbers and texts are those of upstream's XE_SR_ERRORCODES.xml, as far as they are raised here.
"""

import errno as _errno
import xmlrpc.client

CODES = {
    "InvalidArg": (1, "Invalid argument"),
    "SRInUse": (16, "The SR device is currently in use"),
    "InvalidDev": (19, "No such device"),
    "VDIInUse": (24, "The VDI is currently in use"),
    "LockErr": (37, "The lock/unlock request failed"),
    "Unimplemented": (38, "The requested method is not supported/implemented"),
    "SRNotEmpty": (39, "The SR is not empty"),
    "SRScan": (40, "The SR scan failed "),
    "SRExists": (42, "The SR already exists"),
    "VDIExists": (43, "The VDI already exists"),
    "SRNoSpace": (44, "There is insufficient space"),
    "VDIUnavailable": (46, "The VDI is not available"),
    "SRUnavailable": (47, "The SR is not available"),
    "SRUnknownType": (48, "Unknown repository type"),
    "SRBadXML": (49, "Malformed XML string"),
    "LVMCreate": (50, "Logical Volume creation error"),
    "LVMDelete": (51, "Logical Volume deletion error"),
    "LVMMount": (52, "Logical Volume mount/activate error"),
    "LVMUnMount": (53, "Logical Volume unmount/deactivate error"),
    "LVMFilesystem": (57, "Logical Volume filesystem creation error"),
    "LVMMaster": (58, "Logical Volume request must come from master"),
    "FileSRCreate": (61, "File SR creation error"),
    "FileSRDelete": (63, "File SR deletion error"),
    "VDILoad": (65, "Failed to load VDI"),
    "VDIType": (66, "Invalid VDI type"),
    "ISCSIDevice": (67, "ISCSI device failed to appear"),
    "ISCSILogin": (
        68,
        "ISCSI login failed - check access settings for the initiator on the storage, if CHAP is "
        "used verify "
        "CHAP credentials",
    ),
    "ISCSILogout": (69, "ISCSI logout failed"),
    "NFSMount": (73, "NFS mount error"),
    "NFSUnMount": (74, "NFS unmount error"),
    "NFSAttached": (75, "NFS mount point already attached"),
    "LVMGroupCreate": (77, "Logical Volume group creation failed"),
    "VDICreate": (78, "VDI Creation failed"),
    "VDISize": (79, "VDI Invalid size"),
    "VDIDelete": (80, "Failed to mark VDI hidden"),
    "VDIClone": (81, "Failed to clone VDI"),
    "VDISnapshot": (82, "Failed to snapshot VDI"),
    "NFSCreate": (88, "NFS SR creation error"),
    "ConfigDeviceMissing": (90, "The request is missing the device parameter"),
    "ConfigLocationMissing": (94, "The request is missing the location parameter"),
    "ConfigTargetMissing": (95, "The request is missing the target parameter"),
    "ConfigTargetIQNMissing": (
        96,
        "The request is missing or has an incorrect target IQN parameter",
    ),
    "ConfigServerPathMissing": (101, "The request is missing the serverpath parameter"),
    "ConfigServerMissing": (102, "The request is missing the server parameter"),
    "ConfigSCSIid": (107, "The SCSIid parameter is missing or incorrect"),
    "SnapshotChainTooLong": (109, "The snapshot chain is too long"),
    "VDIResize": (110, "VDI resize failed"),
    "ConfigParamsMissing": (115, "Not all required parameters specified."),
    "ISCSITarget": (141, "Unable to connect to ISCSI service on target"),
    "BadRequest": (143, "Failed to parse the request"),
    "VDIMissing": (144, "VDI could not be found"),
    "APILocalhost": (151, "Failed to query Local Control Domain"),
    "APIProtocolError": (154, "A protocol error was received when accessing the API"),
    "LVMProvisionAttach": (
        180,
        "Volume Group out of space. The SR is over-provisioned, and out of space. Unable to grow "
        "the "
        "underlying volume to accommodate the virtual size of the disk.",
    ),
    "EIO": (200, "General IO error"),
    "SMGeneral": (202, "General backend error"),
    "TapdiskAlreadyRunning": (445, "The tapdisk is already running"),
    "TapdiskFailed": (453, "tapdisk experienced an error"),
    "CBTActivateFailed": (457, "Unable to activate changed block tracking."),
    "CBTDeactivateFailed": (458, "Unable to deactivate changed block tracking."),
}


class SRException(Exception):
    """An error that a driver answers to xapi as a fault."""

    errno = _errno.EINVAL

    def toxml(self):
        """The XML-RPC response that carries this error."""
        return xmlrpc.client.dumps(xmlrpc.client.Fault(int(self.errno), str(self)), "", True)


class SROSError(SRException):
    """An error of the table, with its number."""

    def __init__(self, errno, reason):
        super(SROSError, self).__init__(reason)
        self.errno = errno
        self.reason = reason


class XenError(Exception):
    """`XenError(key, opterr)` is the error called `key` in the table: an SROSError, not an instance
    of this class."""

    def __new__(cls, key, opterr=None):
        if key not in CODES:
            return SROSError(1, "Error reporting error, unknown key %s" % key)
        number, text = CODES[key]
        if opterr is not None:
            text += " [opterr=%s]" % opterr
        return SROSError(number, text)
