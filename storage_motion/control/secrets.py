"""What must not be in a journal, a log or an argv: kept in /run/sxm/<id>/ (memory, on a host), for root alone."""
import json
import os
import shutil

from storage_motion.control import journal
from storage_motion.control.noting import noting
from storage_motion.dom0 import launch, root


def keep(migration, name, value):
    """Keep a JSON value of a migration under a name. Raises NotNoted."""
    with noting("%s/%s/%s.json" % (journal.RUN, migration, name)):
        journal.replace(os.path.join(journal.run_directory(migration), name + ".json"), json.dumps(value), sync=False)


def get(migration, name):
    """What was kept. Raises FileNotFoundError."""
    with open(os.path.join(journal.run_directory(migration), name + ".json")) as source:
        return json.load(source)


def forget_all(migration):
    """Remove all that is in /run/sxm/<id>/, and the directory: secrets, sockets, specifications. And the units of its processes
    that systemd keeps because they were killed."""
    path = root.path("%s/%s" % (journal.RUN, journal.check_id(migration)))
    if os.path.isdir(path):
        launch.forget_failed(migration)
        shutil.rmtree(path)


def scrub(text, secrets):
    """`text` without any of the `secrets`."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text
