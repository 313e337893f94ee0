# SPDX-License-Identifier: LGPL-2.1-only
"""What only `sxm` can find wrong, beside the errors of the product."""

from typing import List

import XenAPI

from storage_motion.errors import MotionError
from storage_motion.xapi import session as sessions

NO_ANSWER = "NO_ANSWER"
EXPECTED = (MotionError, XenAPI.Failure, OSError) + sessions.NOT_XAPI
"""What a call of a pool may fail with."""


def failure_of(error: Exception) -> List[str]:
    """[code, detail, ...] of one of EXPECTED."""
    if isinstance(error, MotionError):
        return error.failure()
    if isinstance(error, XenAPI.Failure):
        return [str(detail) for detail in error.details]
    return [NO_ANSWER, sessions.reason(error)]


class NotUnderstood(MotionError):
    """[what is wrong, ...]: on the command line."""

    code = "SXM_NOT_UNDERSTOOD"


class UnknownName(MotionError):
    """[what is called so, and by which names something is known, ...]"""

    code = "SXM_UNKNOWN_NAME"


class AmbiguousName(MotionError):
    """[what is called so, a candidate, ...]"""

    code = "SXM_AMBIGUOUS_NAME"


class BadConfiguration(MotionError):
    """[path, what is wrong, ...]"""

    code = "SXM_BAD_CONFIGURATION"


class NoPassword(MotionError):
    """[of whom]: none was given, and there is nobody to ask."""

    code = "SXM_NO_PASSWORD"


class CertificateChanged(MotionError):
    """[address, the fingerprint that is trusted, the one that is shown, what to do]"""

    code = "SXM_CERTIFICATE_CHANGED"


class CertificateNotKept(MotionError):
    """[address, why]: the certificate of a pool that is new cannot be noted as trusted."""

    code = "SXM_CERTIFICATE_NOT_KEPT"


class Interrupted(MotionError):
    """[by what]"""

    code = "SXM_INTERRUPTED"


class OtherVersion(MotionError):
    """[which versions the plugin and this `sxm` have]: of what they say to each other."""

    code = "SXM_OTHER_VERSION"


class SelftestFailed(MotionError):
    """[what did not hold, ...]"""

    code = "SXM_SELFTEST_FAILED"


class WayRefused(MotionError):
    """[what is wrong with a way that a selftest would go, ...]"""

    code = "SXM_WAY_REFUSED"


class TooQuick(MotionError):
    """[why]: a move that was to be met half-way has ended before."""

    code = "SXM_TOO_QUICK"
