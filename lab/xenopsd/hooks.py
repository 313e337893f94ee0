# SPDX-License-Identifier: LGPL-2.1-only
"""The scripts of /etc/xapi.d/<name>/ (ocaml/xenopsd/lib/xenops_hooks.ml), run as forkexecd does
(ocaml/forkexecd/lib/forkhelpers.ml)."""

import logging
import os
import subprocess

from lab.xenopsd.errors import XenopsError, internal

log = logging.getLogger("xenopsd")

LOG_AND_CONTINUE = 1
TIMEOUT = 600.0
"""The real one waits for ever; the lab ends."""
ENVIRONMENT = {"PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
"""All that a hook finds there."""
NOT_THERE, NOT_EXECUTABLE = 127, 126
"""The exit codes of forkexecd's child for a file that cannot be executed (vfork_helper.c): they
abort the operation, too."""


def run(root, name, vm, reason, extra=()):
    """Run everything in the hook's directory in sorted order; exit 1 is logged, any other but 0
    raises Hook_failed, and a hook that dies by a signal raises as well. Only what it wrote to its
    standard output is told."""
    directory = os.path.join(root, "etc/xapi.d", name)
    if not os.path.isdir(directory):
        return
    for script in sorted(os.listdir(directory)):
        arguments = ["-vmuuid", vm, "-reason", reason] + list(extra)
        log.debug("Executing hook '%s/%s' with args %s", name, script, arguments)
        code, output = _execute([os.path.join(directory, script)] + arguments)
        if code == LOG_AND_CONTINUE:
            log.warning("hook %s/%s said %s", name, script, output)
        elif code < 0:
            # not caught there: a Spawn_internal_error
            raise internal("hook %s/%s: WSIGNALED %d" % (name, script, -code))
        elif code != 0:
            raise XenopsError("Hook_failed", "%s/%s" % (name, script), reason, output, str(code))


def _execute(arguments):
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            env=ENVIRONMENT,
            cwd="/",
        )
    except FileNotFoundError as error:
        return NOT_THERE, str(error)
    except OSError as error:
        return NOT_EXECUTABLE, str(error)
    except subprocess.TimeoutExpired:
        return 124, "did not end within %.0f s" % TIMEOUT
    if done.stderr:
        log.info("hook %s: %s", arguments[0], done.stderr.decode(errors="replace"))
    return done.returncode, done.stdout.decode(errors="replace")
