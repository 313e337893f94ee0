# SPDX-License-Identifier: LGPL-2.1-only
"""The command line is blank where everybody could read it, and whole for the process itself."""

import os
import subprocess
import sys

REPOSITORY = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)

SCRIPT = """
import sys
sys.path.insert(0, %r)
from storage_motion.dom0 import argv
argv.hide()
print(open('/proc/self/cmdline', 'rb').read().replace(b'\\0', b' ').decode().strip())
print(sys.argv[1])
"""


def test_hiding():
    for secret in ("hush", "<methodCall>" + "x" * 100000):
        said = (
            subprocess.check_output([sys.executable, "-c", SCRIPT % REPOSITORY, secret])
            .decode()
            .splitlines()
        )
        assert said[-1] == secret, "the process itself still has it"
        assert secret not in "".join(said[:-1]) and sys.executable in said[0]


SPEAK = """
import sys
sys.path.insert(0, %r)
from storage_motion.dom0 import argv
argv.speak_utf8()
print(sys.argv[1], ascii(sys.argv[1]))
"""


def test_a_plugin_speaks_utf8_with_nothing_but_path_in_its_environment():
    """As xapi runs it; the two variables keep a newer Python from helping itself, which 3.6 does
    not."""
    name = "Fj\u00f6r\u00f0 \u6a5f"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    said = subprocess.check_output(
        [sys.executable.encode(), b"-c", (SPEAK % REPOSITORY).encode(), name.encode("utf-8")],
        env=environment,
    )
    assert said.decode("utf-8") == "%s %s\n" % (name, ascii(name))
