# SPDX-License-Identifier: LGPL-2.1-only
"""xcp.cmd: running a command, whose every word and all of its output goes to the log."""

import subprocess

from xcp import logger


def runCmd(command, with_stdout=False, with_stderr=False, inputtext=None, **kwargs):
    """The exit status; with it, in a tuple, what is asked for of the outputs, as text.

    As the real one: it waits without a bound, a command that is a string is the shell's, without
    `inputtext` the input is the caller's own, and the outputs are bytes if none was asked for."""
    as_text = with_stdout or with_stderr
    if inputtext is not None:
        as_text = as_text and isinstance(inputtext, str)
    if as_text:
        kwargs.setdefault("encoding", "utf-8")
        kwargs.setdefault("errors", "replace")
    kwargs.pop("mode", None)
    words = command
    if isinstance(command, str):
        words = command.encode()
    elif not isinstance(command, bytes):
        words = [word.encode() if isinstance(word, str) else word for word in command]
    process = subprocess.Popen(
        words,
        bufsize=-1,
        stdin=inputtext and subprocess.PIPE or None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        shell=not isinstance(words, list),
        **kwargs,
    )
    out, err = process.communicate(inputtext)
    text = "ran %s; rc %d" % (words, process.returncode)
    if inputtext and isinstance(inputtext, str):
        text += " with input %s" % inputtext
    for title, said in (("OUT", out), ("ERROR", err)):
        if isinstance(said, str) and said:
            text += "\nSTANDARD %s:\n%s" % (title, said)
    for line in text.split("\n"):
        logger.debug(line)
    asked = ((with_stdout, out), (with_stderr, err))
    given = tuple(said for wanted, said in asked if wanted)
    return (process.returncode,) + given if given else process.returncode
