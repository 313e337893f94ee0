# SPDX-License-Identifier: LGPL-2.1-only
"""The tables of the last runs into docs/performance.md, and the plot beside it.

A place in the document is `<!-- bench:ENGINE:NAME -->`, what was rendered last, `<!-- /bench -->`.
"""

import json
import os
import re
import subprocess

from bench import BUILD, REPOSITORY, VENV, tables

DOCUMENT = os.path.join(REPOSITORY, "docs", "performance.md")
PLOT = os.path.join(REPOSITORY, "docs", "downtime.svg")
PLACE = re.compile(r"(<!-- bench:(\w+):([\w-]+) -->\n)(.*?)(<!-- /bench -->)", re.S)
NOT_RUN = "*Not run yet.*\n"


def results():
    """{engine: result} of the last full run over each."""
    found = {}
    for engine in ("lab", "tapdisk"):
        path = os.path.join(BUILD, engine + ".json")
        if os.path.exists(path):
            with open(path) as source:
                found[engine] = json.load(source)
    return found


def filled(text, rendered):
    """`text` with each place filled; `rendered`: {engine: {name: Markdown}}. A place of which no
    run is there keeps what it has."""

    def place(match):
        opening, engine, name, old, closing = match.groups()
        new = rendered.get(engine, {}).get(name)
        return opening + (new + "\n" if new else old or NOT_RUN) + closing

    return PLACE.sub(place, text)


def render():
    """Fill the document; draw the plot."""
    runs = results()
    if not runs:
        raise SystemExit("no run in %s: make bench" % BUILD)
    with open(DOCUMENT) as source:
        text = source.read()
    text = filled(text, {engine: tables.render(result) for engine, result in runs.items()})
    with open(DOCUMENT, "w") as target:
        target.write(text)
    if runs.get("lab", {}).get("downtime"):
        # in its own environment: matplotlib is there only
        python = os.path.join(VENV, "bin", "python")
        result = os.path.join(BUILD, "lab.json")
        subprocess.check_call([python, "-m", "bench.plot", result, PLOT], cwd=REPOSITORY)
    print("Rendered %s of %s" % (os.path.relpath(DOCUMENT), ", ".join(runs)))
