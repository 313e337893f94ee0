"""The command line is blank where everybody could read it, and whole for the process itself."""
import os
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

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
        said = subprocess.check_output([sys.executable, "-c", SCRIPT % REPOSITORY, secret]).decode().splitlines()
        assert said[-1] == secret, "the process itself still has it"
        assert secret not in "".join(said[:-1]) and sys.executable in said[0]
