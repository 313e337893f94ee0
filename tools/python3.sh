#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# Prints the Python that the lab and the tests run on: Debian's own, if it can make virtual environments and compile for itself. It is built
# with its profile, and 1.5 times as fast as one that pyenv has built; a lab starts hundreds of them. Else the first one of $PATH.
for candidate in /usr/bin/python3 "$(command -v python3 2>/dev/null)"; do
    [ -x "$candidate" ] && "$candidate" -c '
import ensurepip, os, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 9) or not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
' 2>/dev/null && { echo "$candidate"; exit 0; }
done
command -v python3
