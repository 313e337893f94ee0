# SPDX-License-Identifier: LGPL-2.1-only
"""One call that the xapi of a master is late with, as the test says: it stands still before its
session is looked at, or right behind that, until the test lets it go on. Who has made it may be
dead by then: a xapi that is busy, and a member on its way to its master, go on all the same.

`/etc/lab-late-call` of the master says which: {"call", "has": what is to be among its arguments,
"at": ARRIVED or CHECKED}. The first such call takes that file away, and has it under another name
while it stands still.
"""

import contextlib
import json
import logging
import os
import time

PLACE = "/etc/lab-late-call"
HELD, GO, ANSWERED = PLACE + ".held", PLACE + ".go", PLACE + ".answered"
ARRIVED, CHECKED = "arrived", "checked"
POLL = 0.02  # seconds
BOUND = 600.0  # seconds for the test to let it go on

log = logging.getLogger("xapi.late")


# The test's part.


def arm(root, call, has=(), at=ARRIVED):
    """The next such call at the master at `root` will stand still."""
    disarm(root)
    with open(root + PLACE + ".new", "w") as stream:
        json.dump({"call": call, "has": list(has), "at": at}, stream)
    os.rename(root + PLACE + ".new", root + PLACE)


def is_held(root):
    """Whether it stands still."""
    return os.path.exists(root + HELD)


def let_go(root):
    """It goes on."""
    open(root + GO, "w").close()


def answered(root):
    """What it was answered when it had gone on: an error's code, "" for none; None: not yet."""
    try:
        with open(root + ANSWERED) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def disarm(root):
    """Let none stand still, and leave nothing."""
    if is_held(root):
        let_go(root)
        deadline = time.monotonic() + BOUND
        while answered(root) is None and time.monotonic() < deadline:
            time.sleep(POLL)
    for path in (PLACE, HELD, GO, ANSWERED):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root + path)


# The xapi's.


@contextlib.contextmanager
def standing_still(root, name, arguments):
    """`at(moment)`, to be called at each of the moments of a call with these arguments."""
    rule = _taken(root, name, arguments)
    if rule is None:
        yield lambda moment: None
        return
    code = "?"
    try:
        yield lambda moment: _stand_still(root, name) if moment == rule["at"] else None
        code = ""
    except Exception as error:
        code = getattr(error, "code", error.__class__.__name__)
        raise
    finally:
        with open(root + ANSWERED + ".new", "w") as stream:
            stream.write(code)
        os.rename(root + ANSWERED + ".new", root + ANSWERED)


def _taken(root, name, arguments):
    try:
        with open(root + PLACE) as stream:
            rule = json.load(stream)
        if rule["call"] != name or not set(rule["has"]) <= {str(one) for one in arguments}:
            return None
        os.rename(root + PLACE, root + PLACE + ".taken")  # one call alone
    except FileNotFoundError:
        return None
    os.unlink(root + PLACE + ".taken")
    return rule


def _stand_still(root, name):
    log.info("%s stands still", name)
    open(root + HELD, "w").close()
    deadline = time.monotonic() + BOUND
    while not os.path.exists(root + GO) and time.monotonic() < deadline:
        time.sleep(POLL)
    log.info("%s goes on", name)
