"""The scripts of /etc/xapi.d/<name>/ (ocaml/xenopsd/lib/xenops_hooks.ml)."""
import logging
import os
import subprocess

from lab.xenopsd.errors import XenopsError

log = logging.getLogger("xenopsd")

LOG_AND_CONTINUE = 1
TIMEOUT = 600.0
"""The real one waits for ever; the lab ends."""


def run(root, name, vm, reason, extra=()):
    """Run every script of the hook in sorted order; exit 1 is logged, any other but 0 raises Hook_failed."""
    directory = os.path.join(root, "etc/xapi.d", name)
    if not os.path.isdir(directory):
        return
    for script in sorted(os.listdir(directory)):
        code, output = _execute([os.path.join(directory, script), "-vmuuid", vm, "-reason", reason] + list(extra))
        if code == LOG_AND_CONTINUE:
            log.warning("hook %s/%s said %s", name, script, output)
        elif code != 0:
            raise XenopsError("Hook_failed", "%s/%s" % (name, script), reason, output, str(code))


def _execute(arguments):
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT)
    except OSError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired:
        return 124, "did not end within %.0f s" % TIMEOUT
    return done.returncode, done.stdout.decode(errors="replace")
