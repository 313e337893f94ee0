#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Storage XenMotion as a xapi plugin: `xe host-call-plugin plugin=sxm.py fn=migrate args:vm=...`.

Arguments are strings, an answer is a JSON object, an error is a XenAPI failure with a code of its
own. `fn=help` tells all functions and their arguments: the table is in
storage_motion/api/functions.py.
"""

import json
from typing import Callable, Dict, List, Tuple

import XenAPI
import XenAPIPlugin

from storage_motion.api import functions
from storage_motion.dom0 import argv
from storage_motion.errors import MotionError
from storage_motion.xapi import session as sessions

# seconds that one call of xapi may take: it may be our plugin on another host, which makes a
# hundred disks
CALL_TIMEOUT = 3600.0


def answering(name: str) -> Callable[["XenAPI.Session", Dict[str, str]], str]:
    """The function of that name as xapi wants it: a string, or XenAPIPlugin.Failure."""

    def call(session: "XenAPI.Session", arguments: Dict[str, str]) -> str:
        try:
            joined = sessions.joined(session.handle, CALL_TIMEOUT)
            return json.dumps(functions.call(name, joined, arguments), sort_keys=True)
        except MotionError as error:
            raise XenAPIPlugin.Failure(*_code_and_details(error.failure()))
        except XenAPI.Failure as failure:
            raise XenAPIPlugin.Failure(
                *_code_and_details([str(detail) for detail in failure.details])
            )

    return call


def _code_and_details(description: List[str]) -> Tuple[str, List[str]]:
    return description[0], description[1:]


if __name__ == "__main__":
    try:
        argv.hide()
    except (OSError, ValueError):
        pass  # better to be seen in `ps` than not to be done; it is xapi that put it there
    argv.speak_utf8()
    XenAPIPlugin.dispatch({name: answering(name) for name in functions.FUNCTIONS})
