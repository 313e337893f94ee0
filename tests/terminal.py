# SPDX-License-Identifier: LGPL-2.1-only
"""A terminal of 80 columns and 24 rows, and what stands on it: tmux, with a server of its own."""

import os
import shlex
import shutil
import subprocess
import tempfile
import uuid

SIZE = (80, 24)
BOUND = 30  # seconds for a command of tmux's


class Terminal:
    """Runs a program, a list of words, on it; its last screen stays. A context manager."""

    def __init__(self, words, **environment):
        self._socket = "test-%s" % uuid.uuid4().hex[:12]
        self._folder = tempfile.mkdtemp(prefix=self._socket)
        self._ended = os.path.join(self._folder, "status")
        program = " ".join(shlex.quote(word) for word in words)
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
            settings.write("set -g remain-on-exit on\nset -g status off\n")
            settings.flush()
            self._tmux(
                *("-f", settings.name, "new-session", "-d"),
                *("-x", str(SIZE[0]), "-y", str(SIZE[1])),
                "%s; echo $? > %s" % (program, shlex.quote(self._ended)),
                env=dict(os.environ, TERM="xterm-256color", LC_ALL="C.UTF-8", **environment),
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._tmux("kill-server")
        shutil.rmtree(self._folder)

    def _tmux(self, *words, env=None):
        return subprocess.run(
            ["tmux", "-u", "-L", self._socket] + list(words),
            check=True,
            timeout=BOUND,
            text=True,
            stdout=subprocess.PIPE,
            env=env,
        ).stdout

    def lines(self):
        """What is to be read on it, without the blanks at the ends."""
        text = self._tmux("capture-pane", "-p")
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def coloured(self):
        """The whole screen, with the codes of its colours."""
        return self._tmux("capture-pane", "-e", "-p")

    def story(self):
        """What there is to tell of it, where it does not come to its end."""
        known = self._tmux("display-message", "-p", "#{pane_dead} #{pane_pid}").split()
        try:
            with open("/proc/%s/wchan" % known[1]) as source:
                waits = source.read()
        except OSError as error:
            waits = str(error)
        return "\n".join(self.lines() + ["dead %s, in %s" % (known[0], waits)])

    def status(self):
        """What the program has ended with, and all that it wrote is to be read; None before.

        The shell notes the former: tmux 3.3a misses the end of its child now and then (4 times of
        12 here). The pane is dead then, the child a zombie, and pane_dead_status stays empty."""
        if self._tmux("display-message", "-p", "#{pane_dead}").strip() != "1":
            return None
        with open(self._ended) as source:
            told = source.read().strip()
        return int(told) if told else None
