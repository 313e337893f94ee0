# SPDX-License-Identifier: LGPL-2.1-only
"""What the program `sxm` begins with. All that it needs takes half a second to be imported; Ctrl-C
ends it meanwhile without a word, as there is nothing to say yet."""

import signal


def start() -> int:
    """Returns the exit status."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # in the background of a shell it is not
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from storage_motion.cli.main import main

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()
