# SPDX-License-Identifier: LGPL-2.1-only
"""How hypothesis judges: by what a test finds, not by how fast a busy machine is. And what comes
first, of the files that run side by side: those that take minutes, for else one of them is the last
one, alone."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")

LONG = ("test_cutover_databases.py", "test_cutover_syncs.py", "test_cutover_model.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)  # stable: the others stay as they were
    for item in items:
        if item.path.name in LONG:
            item.add_marker(
                "no_cover"
            )  # make test-coverage: it runs the same lines a million times
