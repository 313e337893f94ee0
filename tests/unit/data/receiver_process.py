"""A receiver whose gates are files: what `storage_motion.data.receiver` is, without SM and xapi."""
import os
import sys

from storage_motion.data import receiver, service
from storage_motion.errors import MotionError


def open_gate(sr, vdi):
    directory = os.path.dirname(sys.argv[1])
    if os.path.exists(os.path.join(directory, "gate-is-stuck")):
        raise MotionError("the gate is stuck")
    with open(os.path.join(directory, "gate-" + vdi), "w") as gate:
        gate.write(sr)


if __name__ == "__main__":
    sys.exit(service.main(lambda path: receiver.run(path, open_gate), "receiver"))
