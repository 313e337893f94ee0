# SPDX-License-Identifier: LGPL-2.1-only
"""Imports run one way: each folder of the product imports what stands below it, and the product
nothing of the lab."""

import ast
import os
import re

import pytest

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PRODUCT = "storage_motion"
WORDS = "basics"
"""The modules that lie in no folder: errors, waiting, and their like."""
LAYERS = (
    "api",
    "migration",
    "switch",
    "journal",
    "plan",
    "source destination",
    "sm",
    "xapi",
    "wire",
    "dom0",
    WORDS,
)
"""From the top; those of one line know nothing of each other."""
FURTHER = {
    "source": ("wire", "dom0", WORDS),
    "destination": ("wire", "dom0", WORDS),
    "cli": ("api", "plan", "sm", "xapi", WORDS),
    "drivers": ("sm", "dom0", WORDS),
    "plugins": ("api", "xapi", "dom0", WORDS),
}
"""What these may import, where the layers would allow more, or have no place for them."""


def allowed(folder):
    """The folders that one may import."""
    if folder in FURTHER:
        return FURTHER[folder]
    (level,) = [number for number, layer in enumerate(LAYERS) if folder in layer.split()]
    return [name for layer in LAYERS[level + 1 :] for name in layer.split()]


def modules():
    """[(folder, path)] of the product's own."""
    found = []
    for top in (PRODUCT, "drivers", "plugins"):
        for directory, _, names in os.walk(os.path.join(REPOSITORY, top)):
            parts = os.path.relpath(directory, REPOSITORY).split(os.sep)
            folder = top if top != PRODUCT else parts[1] if len(parts) > 1 else WORDS
            found += [
                (folder, os.path.join(directory, name)) for name in names if name.endswith(".py")
            ]
    return sorted(found)


def imported(path):
    """{(line, folder)} of what a module imports: folders of the product, and other packages by
    their names."""
    with open(path) as source:
        tree = ast.parse(source.read())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = ["%s.%s" % (node.module, alias.name) for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PRODUCT:
                folder = parts[1] if len(parts) > 1 else ""
                inside = folder and os.path.isdir(os.path.join(REPOSITORY, PRODUCT, folder))
                found.add((node.lineno, folder if inside else WORDS))
            else:
                found.add((node.lineno, parts[0]))
    return found


@pytest.mark.parametrize(
    "folder, path",
    modules(),
    ids=lambda value: os.path.relpath(value, REPOSITORY) if os.sep in value else "",
)
def test_imports_run_one_way(folder, path):
    folders = {name for layer in LAYERS for name in layer.split()} | set(FURTHER)
    wrong = [
        (line, name)
        for line, name in sorted(imported(path))
        if name in ("lab", "tests") or name in folders - {folder} - set(allowed(folder))
    ]
    assert wrong == []


def test_there_is_something_to_look_at():
    """Also of the layers: each is a folder, so that a new name is not passed over in silence."""
    found = {folder for folder, _ in modules()}
    assert found == {name for layer in LAYERS for name in layer.split()} | set(FURTHER)
    found = imported(os.path.join(REPOSITORY, PRODUCT, "switch/whereabouts.py"))
    assert {"xapi", "journal", "switch", WORDS, "XenAPI"} <= {name for _, name in found}


def test_a_test_lies_where_its_module_lies():
    lies = {}
    for _, path in modules():
        folder = os.path.relpath(os.path.dirname(path), os.path.join(REPOSITORY, PRODUCT))
        lies.setdefault("test_" + os.path.basename(path), set()).add(folder)
    unit = os.path.join(REPOSITORY, "tests", "unit")
    found = [
        (os.path.relpath(directory, unit), name)
        for directory, _, names in os.walk(unit)
        for name in names
        if name in lies
    ]
    assert len(found) > 40
    assert [(folder, name) for folder, name in found if folder not in lies[name]] == []


CITED = re.compile(r"\bdocs/(?:facts/)?[a-z0-9.-]+\.md\b")


def test_what_is_cited_is_in_the_repository():
    missing, found = [], 0
    for top in (PRODUCT, "drivers", "plugins", "lab", "tests", "docs", "rpm", "xapi-hooks"):
        for directory, _, names in os.walk(os.path.join(REPOSITORY, top)):
            for name in names:
                if name.endswith((".py", ".md", ".sh", ".spec", ".service")) or name == "10-sxm":
                    path = os.path.join(directory, name)
                    with open(path, encoding="utf-8") as source:
                        cited = CITED.findall(source.read())
                    found += len(cited)
                    missing += [
                        (path, page)
                        for page in cited
                        if not os.path.exists(os.path.join(REPOSITORY, page))
                    ]
    assert found > 50 and missing == []
