# SPDX-License-Identifier: LGPL-2.1-only
"""Where reports are kept on this machine: $XDG_DATA_HOME/sxm/reports, else
~/.local/share/sxm/reports."""

import json
import os
import re
from typing import TYPE_CHECKING, Any, Dict, Iterable, Optional, Sequence

import XenAPI

from storage_motion.cli.failures import NotUnderstood
from storage_motion.cli.output import Output
from storage_motion.cli.report import answers
from storage_motion.errors import MotionError
from storage_motion.xapi import session as sessions

if TYPE_CHECKING:
    from storage_motion.cli.report.page import Written

PART = 40  # characters of a VM's name in that of a file
UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
WRITING = "writing a report of how it went, which takes some seconds"


def folder() -> str:
    """The folder."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "sxm", "reports")


def file_name(reports: Sequence[Dict[str, Any]]) -> str:
    """What the page is called, of no folder: by the VM and the id of the (first) migration."""
    first = reports[0]
    name = UNFIT.sub("-", first["vm_name"]).strip("-.")[:PART] or "vm"
    others = "-and-%d-more" % (len(reports) - 1) if len(reports) > 1 else ""
    return "%s%s-%s.html" % (name, others, first["migration"][:8])


def write(reports: Sequence[Dict[str, Any]], path: str, title: str = "") -> "Written":
    """See page.write. Raises OSError."""
    # Not before: to draw takes half a second to be imported, which other commands do not need.
    from storage_motion.cli.report import page

    return page.write(reports, path, title)


def spare_others(path: str) -> None:
    """Raises NotUnderstood, if the JSON beside a page of this path would replace a file that is
    none of a report; OSError."""
    from storage_motion.cli.report import page

    beside = page.paths(path).json
    try:
        with open(beside, encoding="utf-8") as source:
            found = json.load(source)
    except FileNotFoundError:
        return
    except ValueError:
        found = None
    if not isinstance(found, dict) or set(found) != page.DOCUMENT:
        raise NotUnderstood("%s is there, and is of no report: name another page" % beside)


def keep(pool: Any, migrations: Iterable[str], out: Output, title: str = "") -> "Optional[Written]":
    """Write one page of these migrations, which have ended, into the folder, and tell where it is.
    A report is worth a warning at most: where there is none it returns None."""
    out.note(WRITING)
    try:
        reports = [answers.of(pool, migration=one) for one in migrations]
        os.makedirs(folder(), exist_ok=True)
        written = write(reports, os.path.join(folder(), file_name(reports)), title)
    except Exception as error:
        # Such as of a plugin that has no such function yet, or a newer one. How the migration has
        # ended is told all the same.
        out.warning("no report is written: %s" % _said(error))
        return None
    out.note("report: %s" % written.html)
    return written


def keep_all(pool: Any, migrations: Sequence[str], out: Output, title: str) -> "Optional[Written]":
    """The same of many, without those that have none: of these it warns. Tells nothing of where it
    is. Raises OSError, and what jinja2 does."""
    if not migrations:
        return None
    out.note(WRITING)
    reports = []
    for one in migrations:
        try:
            reports.append(answers.of(pool, migration=one))
        except (XenAPI.Failure, OSError, MotionError) + sessions.NOT_XAPI as error:
            out.warning("migration %s is not in the report: %s" % (one, _said(error)))
    if not reports:
        return None
    os.makedirs(folder(), exist_ok=True)
    return write(reports, os.path.join(folder(), file_name(reports)), title)


def _said(error: BaseException) -> str:
    if isinstance(error, XenAPI.Failure):
        return ": ".join(str(detail) for detail in error.details[:2])
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        return "%s: %s" % (error.filename, why) if error.filename else why
    if isinstance(error, MotionError):
        return str(error)
    if isinstance(error, sessions.NOT_XAPI):
        return sessions.reason(error)
    return "%s: %s" % (type(error).__name__, error)
