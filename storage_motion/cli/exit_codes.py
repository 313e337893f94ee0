# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm` ends with, and what it tells a user of each error. docs/sxm.md has the same table."""

from typing import Dict, NamedTuple, Sequence

DONE = 0
FAILED = 1
NOT_UNDERSTOOD = 2
NO_CONNECTION = 3
SOME_FAILED = 4
REFUSED = 5
INTERRUPTED = 130

MEANINGS: Dict[int, str] = {
    DONE: "done, or nothing was wrong",
    FAILED: "failed; what was begun has been told",
    NOT_UNDERSTOOD: "not understood: a wrong option, or a name that is unknown or ambiguous; "
    "nothing was changed",
    NO_CONNECTION: "the pool cannot be reached, does not take the password, or shows another "
    "certificate",
    SOME_FAILED: "of several things that were to be done, some failed",
    REFUSED: "it cannot be done as it was asked for, and nothing was changed: `plan` shows why",
    INTERRUPTED: "interrupted (control C); a migration that was begun goes on by itself",
}


class Outcome(NamedTuple):
    """`status`: what the command ends with; `remedy`: what to do, "" if the error says it."""

    status: int
    remedy: str = ""


ANY = Outcome(FAILED)
OF_CODE: Dict[str, Outcome] = {
    "SXM_NOT_UNDERSTOOD": Outcome(NOT_UNDERSTOOD),
    "SXM_UNKNOWN_NAME": Outcome(NOT_UNDERSTOOD),
    "SXM_AMBIGUOUS_NAME": Outcome(NOT_UNDERSTOOD, "name it by its UUID"),
    "SXM_BAD_CONFIGURATION": Outcome(NOT_UNDERSTOOD, "mend the file; docs/sxm.md tells its form"),
    "SXM_NO_PASSWORD": Outcome(
        NO_CONNECTION,
        "give --password-file FILE, or set SXM_PASSWORD (of the destination: SXM_REMOTE_PASSWORD)",
    ),
    "SXM_UNREACHABLE": Outcome(
        NO_CONNECTION, "check the address, and that port 443 of the pool's master is open to you"
    ),
    "SXM_BAD_CREDENTIALS": Outcome(NO_CONNECTION, "check user and password of that pool"),
    "SESSION_AUTHENTICATION_FAILED": Outcome(NO_CONNECTION, "check user and password of that pool"),
    "SXM_HOST_IS_SLAVE": Outcome(NO_CONNECTION, "name the master, whose address is told above"),
    "SXM_CERTIFICATE_CHANGED": Outcome(NO_CONNECTION),
    "SXM_CERTIFICATE_NOT_KEPT": Outcome(
        NO_CONNECTION,
        "let sxm write there, or set XDG_CONFIG_HOME to another folder; no password was sent",
    ),
    "SXM_CERTIFICATE_MISMATCH": Outcome(
        NO_CONNECTION, "the certificate changed just now: try again"
    ),
    "XENAPI_MISSING_PLUGIN": Outcome(
        FAILED, "install storage-xenmotion on every host of that pool (docs/operations.md, Install)"
    ),
    "RBAC_PERMISSION_DENIED": Outcome(REFUSED, "log in as a pool administrator"),
    "SXM_BAD_ARGUMENTS": Outcome(REFUSED),
    "SXM_REFUSED": Outcome(REFUSED),
    "SXM_ALREADY_MIGRATING": Outcome(
        REFUSED, "sxm list shows it; wait for it, or cancel it with sxm cancel VM"
    ),
    "SXM_NO_SUCH_MIGRATION": Outcome(NOT_UNDERSTOOD, "sxm list shows those that are known"),
    "SXM_NOTHING_TO_RESUME": Outcome(REFUSED),
    "SXM_NOT_RUNNING": Outcome(REFUSED),
    "SXM_TOO_LATE": Outcome(REFUSED, "the VM has moved, or is about to: sxm show MIGRATION"),
    "SXM_WORKER_DIED": Outcome(FAILED, "sxm recover brings it to an end"),
    "SXM_NOT_OF_SELFTEST": Outcome(REFUSED),
    "SXM_OTHER_VERSION": Outcome(
        FAILED, "install the sxm of the version that the pool's hosts have: sxm doctor tells it"
    ),
    "SXM_INTERRUPTED": Outcome(INTERRUPTED),
}


def of(failure: Sequence[str]) -> Outcome:
    """What an error, [code, detail, ...], makes of the command."""
    return OF_CODE.get(failure[0], ANY)
