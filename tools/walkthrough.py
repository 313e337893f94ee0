# SPDX-License-Identifier: LGPL-2.1-only
"""Renews docs/walkthrough.md and its pictures (`make walkthrough`): brings up a lab of two pools,
runs each command of the page there, in tmux where the page shows a screen, and puts what it printed
into the page. Takes about three minutes, and wants tmux, Chromium and pdftoppm.

A place in the page is `<!-- made:NAME -->`, what was made last, `<!-- /made -->`. Folders are
shortened, lines that are longer than the page broken, and of long outputs the middle left out.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap

from rich.console import Console
from rich.text import Text

from lab.pools import leftovers, to_try
from lab.pools.lab import Lab
from tests.browser import Browser
from tests.eventually import eventually
from tests.terminal import SIZE, Terminal

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(REPOSITORY, "docs", "walkthrough.md")
PLACE = re.compile(r"(<!-- made:([\w-]+) -->\n)(.*?)(<!-- /made -->)", re.S)
MIB = 1 << 20
SMALL = (24 * MIB,)
SHOWN_HOME = "/home/me"
LONGEST = 100  # columns of a line of the page, but its indent
BOUND = 400.0  # seconds for what is waited for, on a machine that does much else
LIGHT, PHONE = 1000, 390  # CSS pixels that a page of the report is wide
TALL = 1400  # of the pictures that show the beginning of the page alone
STYLES = "<style>pre, text, .terminal { font-family: 'DejaVu Sans Mono', monospace }</style>"

COMMANDS = {
    "doctor": "sxm doctor --to-pool lyon",
    "plan": "sxm plan --vm web --to-pool lyon --to-sr b1-fast",
    "misspelt": "sxm plan --vm wbe --to-sr a1-big",
    "missing": "sxm plan --vm web --to-pool lyon",
    "migrate": "sxm migrate --vm web --to-pool lyon --to-sr b1-fast --bandwidth 4MiB",
    "begin": "sxm migrate --vm db --to-sr a1-big --bandwidth 1MiB --no-wait",
    "watch": "sxm watch web db",
    "limit": "sxm limit db 2MiB",
    "cancel": "sxm cancel db",
    "show": "sxm show db",
    "list": "sxm list",
    "log": "sxm show web --log",
    "report": "sxm report web -o web.html",
    "dry-run": "sxm evacuate --sr a1-fast --to-sr a1-big --dry-run",
    "evacuate": "sxm evacuate --sr a1-fast --to-sr a1-big --argument bandwidth=2MiB",
}
"""What is typed, by the place where the page has it."""
FURTHER = ("migrate-end",)
"""Places without a command: what one above them shows later."""
PARTS = {"doctor": (14, 9), "log": (44, 20)}
"""How many lines of a long output are shown, from its begin and from its end."""
STATUSES = {"misspelt": 2, "missing": 5}


class Person:
    """Who types the commands, in a home of his own on his own machine."""

    def __init__(self, home, pools):
        self.home = home
        to_try.configure(pools, os.path.join(home, ".config"))
        self._bare = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "SXM_")) and name not in ("COLUMNS", "NO_COLOR")
        }
        self._own = {"HOME": home, "PYTHONPATH": REPOSITORY}
        self.made = {}

    def _words(self, name):
        return [sys.executable, "-m", "storage_motion.cli.main"] + shlex.split(COMMANDS[name])[1:]

    def types(self, name):
        """A command without a terminal, to its end."""
        ran = subprocess.run(
            self._words(name),
            env=dict(self._bare, **self._own),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BOUND,
        )
        if ran.returncode != STATUSES.get(name, 0):
            raise SystemExit("%s ended with %d:\n%s" % (name, ran.returncode, ran.stdout))
        self.put(name, ran.stdout.splitlines())

    @contextlib.contextmanager
    def terminal(self, name):
        """The same on a terminal, where it goes on."""
        with Terminal(self._words(name), **self._own) as terminal:
            yield terminal

    def ended(self, terminal):
        """The last screen of a program, once it has ended well."""
        eventually(lambda: terminal.status() is not None, "the end", BOUND, seen=terminal.story)
        if terminal.status() != 0:
            raise SystemExit("it ended with %d:\n%s" % (terminal.status(), terminal.story()))
        return [line for line in terminal.lines() if not line.startswith("Pane is dead")]

    def put(self, name, lines):
        """What the page is to show at a place."""
        head, tail = PARTS.get(name, (len(lines), 0))
        if len(lines) > head + tail + 1:
            lines = lines[:head] + ["..."] + lines[-tail:]
        shown = ["    " + COMMANDS[name], ""] if name in COMMANDS else []
        for line in lines:
            line = line.replace(self.home, SHOWN_HOME).rstrip()
            if len(line) > LONGEST:
                indent = " " * (len(line) - len(line.lstrip()))
                shown += [
                    "    " + part
                    for part in textwrap.wrap(
                        line,
                        LONGEST,
                        initial_indent="",
                        subsequent_indent=indent,
                        break_long_words=False,
                        break_on_hyphens=False,
                    )
                ]
            else:
                shown.append(("    " + line).rstrip())
        self.made[name] = "\n".join(shown) + "\n"


def _line(terminal, pattern):
    """Wait for a line of the screen that has `pattern`; the whole screen."""
    seen = []

    def there():
        seen[:] = terminal.lines()
        return any(re.search(pattern, line) for line in seen)

    eventually(there, pattern, BOUND, seen=terminal.story)
    return list(seen)


def photograph(coloured, title, name):
    """A picture of a screen with its colours, `name`.png."""
    console = Console(record=True, width=SIZE[0], file=open(os.devnull, "w"), force_terminal=True)
    console.print(Text.from_ansi(coloured.rstrip("\n")), soft_wrap=True)
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.S)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        path = os.path.join(folder, "screen.html")
        with open(path, "w") as out:
            out.write("<!DOCTYPE html><meta charset=utf-8>%s<body style='margin:0'>" % STYLES)
            out.write(drawn.replace("<svg ", "<svg width='1000' ", 1))
        browser.open(path)
        browser.show(LIGHT)
        height = browser.evaluate("document.querySelector('svg').getBoundingClientRect().height")
        browser.picture(_picture(name), (0, 0, LIGHT, height))


def _picture(name):
    return os.path.join(REPOSITORY, "docs", name + ".png")


def report_pictures(path):
    """The report as a screen shows it in the light and in the dark, as a phone does, and the first
    sheet of paper."""
    with Browser() as browser, tempfile.TemporaryDirectory() as folder:
        browser.open(path)
        browser.show(LIGHT)
        browser.picture(_picture("report"))
        browser.show(LIGHT, scheme="dark")
        browser.picture(_picture("report-dark"), (0, 0, LIGHT, TALL))
        browser.show(PHONE)
        browser.picture(_picture("report-phone"), (0, 0, PHONE, TALL))
        sheets = os.path.join(folder, "report.pdf")
        browser.paper(sheets)
        subprocess.check_call(
            ["pdftoppm", "-png", "-r", "75", "-singlefile", sheets, _picture("report-paper")[:-4]]
        )


def before(person):
    """Nothing moves yet."""
    for name in ("doctor", "plan", "misspelt", "missing"):
        person.types(name)


def meanwhile(person):
    """web moves to the other pool, and db within its host, at a time."""
    with person.terminal("migrate") as migrate:
        person.put("migrate", _line(migrate, r" [3-9]\d% "))
        person.types("begin")
        with person.terminal("watch") as watch:
            person.put("watch", _line(watch, r"xvda db.* [1-9]\d% "))
            photograph(watch.coloured(), COMMANDS["watch"], "watch")
        for name in ("limit", "cancel", "show"):
            person.types(name)
        person.put("migrate-end", person.ended(migrate)[1:])


def afterwards(person):
    """What there is to read of it."""
    for name in ("list", "log", "report"):
        person.types(name)
    report_pictures(os.path.join(person.home, "web.html"))


def many(person):
    """An SR is emptied."""
    person.types("dry-run")
    with person.terminal("evacuate") as evacuate:
        _line(evacuate, r"db +.* [1-9]\d% ")
        photograph(evacuate.coloured(), COMMANDS["evacuate"], "evacuate")
        person.put("evacuate", person.ended(evacuate))


def make(home):
    """{place: text}, and the pictures."""
    with Lab(plan=to_try.PLAN) as lab:
        web, _ = to_try.furnish(lab)
        _filled(lab, "a1", web)
        person = Person(home, lab.pools)
        before(person)
        meanwhile(person)
        afterwards(person)
        for name in ("mail", "wiki", "shop"):
            to_try.start(lab, name, SMALL)
        many(person)
        lost = lab.host("b1").guest(web).check()["missing"]
        if lost or leftovers.at_rest(lab):
            raise SystemExit("%d writes are missing; left: %s" % (lost, leftovers.at_rest(lab)))
    return person.made


def _filled(lab, host, vm):
    guest = lab.host(host).guest(vm)
    eventually(lambda: guest.status()["writes_acknowledged"] >= 40, "its first writes", BOUND)


def filled(text, made):
    """The page with its places filled."""
    return PLACE.sub(lambda match: match.group(1) + made[match.group(2)] + match.group(4), text)


def main():
    missing = [name for name in ("tmux", "pdftoppm", "chromium") if not shutil.which(name)]
    if missing:
        raise SystemExit("missing: %s; tools/packages.sh, and with report" % ", ".join(missing))
    with tempfile.TemporaryDirectory() as home:
        made = make(home)
    with open(PAGE) as source:
        text = source.read()
    with open(PAGE, "w") as out:
        out.write(filled(text, made))
    print("renewed docs/walkthrough.md and its pictures: look at them")


if __name__ == "__main__":
    main()
