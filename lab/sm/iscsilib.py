# SPDX-License-Identifier: LGPL-2.1-only
"""iSCSI sessions, by iscsiadm. Upstream has this in sm.core.iscsi."""

from sm.core import util

NO_RECORDS = 21  # iscsiadm(8): ISCSI_ERR_NO_OBJS_FOUND
SESSION_EXISTS = 15  # ISCSI_ERR_SESS_EXISTS


def discovery(target, port):
    """What a portal offers: [(portal, IQN)], and iscsiadm's own records of it. Raises
    CommandException."""
    text = util.pread(["iscsiadm", "-m", "discovery", "-t", "st", "-p", "%s:%s" % (target, port)])
    return [(line.split()[0].split(",")[0], line.split()[1]) for line in text.splitlines()]


def login(portal, iqn):
    """Log in at a portal; one session is enough. Raises CommandException."""
    try:
        util.pread(["iscsiadm", "-m", "node", "-p", portal, "-T", iqn, "-l"])
    except util.CommandException as error:
        if error.code != SESSION_EXISTS:
            raise


def logout(iqn):
    """End all sessions with a target, if there are any. Raises CommandException."""
    try:
        util.pread(["iscsiadm", "-m", "node", "-T", iqn, "-u"])
    except util.CommandException as error:
        if error.code != NO_RECORDS:
            raise
