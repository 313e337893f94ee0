# SPDX-License-Identifier: LGPL-2.1-only
"""NBD on the wire: constants and structs, as the protocol document names them.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; the section is named at
each group. All integers are big-endian. What the real tapdisk does otherwise is in
docs/facts/tapdisk-and-sm.md section 3 and told where it matters.
"""

import errno
import os
import struct

SECTOR = 512  # tapdisk truncates anything finer without a word: nothing here may be finer
# the largest request taken from anybody: tapdisk mirrors a guest's request in one piece
MAX_REQUEST = 64 << 20

# "Fixed newstyle negotiation"
MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9

GREETING = struct.Struct(">QQH")  # MAGIC, OPTION_MAGIC, handshake flags
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")  # OPTION_MAGIC, option, length of its data
OPTION_REPLY = struct.Struct(">QIII")  # OPTION_REPLY_MAGIC, option, reply type, length of its data
EXPORT = struct.Struct(">QH")  # size, transmission flags: the answer to OPT_EXPORT_NAME
EXPORT_PADDING = 124  # zeroes after EXPORT, unless both sides have said NO_ZEROES
GO_NAME = struct.Struct(">I")  # length of the name, which follows
GO_COUNT = struct.Struct(">H")  # number of information requests, which follow
INFO_TYPE = struct.Struct(">H")
INFO_EXPORT_DATA = struct.Struct(">HQH")  # INFO_EXPORT, size, transmission flags
INFO_BLOCK_SIZE_DATA = struct.Struct(">HIII")  # INFO_BLOCK_SIZE, minimum, preferred, maximum

# "Handshake flags"
FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1

# "Transmission flags"
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1

# "Option types"
OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8

# "Option reply types"
REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_ERROR = 1 << 31
REP_ERR_UNSUP = REP_ERROR + 1
REP_ERR_INVALID = REP_ERROR + 3

INFO_EXPORT = 0
INFO_BLOCK_SIZE = 3

# "Transmission phase"
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698

REQUEST = struct.Struct(">IHHQQI")  # REQUEST_MAGIC, command flags, command, handle, offset, length
SIMPLE_REPLY = struct.Struct(">IIQ")  # SIMPLE_REPLY_MAGIC, error, handle

# "Request types"
CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_WRITE_ZEROES = 6
# ours, of the copy role alone: the range reads as zeros, or it is an error
CMD_REQUIRE_ZEROES = 0x5A00

COMMAND_NAMES = {
    CMD_READ: "read",
    CMD_WRITE: "write",
    CMD_DISC: "disconnect",
    CMD_WRITE_ZEROES: "write zeroes",
    CMD_REQUIRE_ZEROES: "require zeroes",
}

NOT_AS_WRITTEN = 0x5A01  # an error of ours, and no errno: what the disk reads is not what it got


def reply_errno(error: int) -> int:
    """The errno that a reply's `error` field means. tapdisk sends it negative: 4294967274 is -22,
    EINVAL."""
    return (1 << 32) - error if error >= 1 << 31 else error


def describe_errno(number: int) -> str:
    """`22 (Invalid argument)`, for messages."""
    # A peer may answer with anything, and there is one number, 1 << 31, that strerror cannot even
    # be asked for.
    return "%d (%s)" % (
        number,
        os.strerror(number) if number < 1 << 31 else "no error of this system",
    )


def request_fault(offset: int, length: int, size: int) -> int:
    """Why a request may not touch `length` bytes at `offset` of a disk of `size` bytes: an errno,
    or 0 where it may."""
    if offset % SECTOR or length % SECTOR or length == 0 or length > MAX_REQUEST:
        return errno.EINVAL
    if offset + length > size:
        return errno.ENOSPC
    return 0
