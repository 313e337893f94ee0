# SPDX-License-Identifier: LGPL-2.1-only
"""What the pages tell a reader to type is there, and so is where their links lead."""

import functools
import glob
import os
import re
import shlex

import pytest
import typer

from storage_motion.cli import main

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
PAGES = sorted(
    os.path.relpath(path, REPOSITORY)
    for pattern in ("*.md", "docs/*.md")
    for path in glob.glob(os.path.join(REPOSITORY, pattern))
)
GUIDES = (
    "install first-migration evacuate pool-to-pool vhd-to-qcow2 limits security comparison"
    " walkthrough"
).split()
BLOCK = re.compile(r"^ {4,}(?:\$ )?(sxm (?:[^\n]*\\\n)*[^\n]*)$", re.M)
INLINE = re.compile(r"`(sxm [^`]+)`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.M)
TEXT_OF_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
HEAD_OF_A_REPORT = re.compile(r"sxm selftest [0-9a-f]{8}, ")
"""What `sxm selftest` writes, and nobody types."""
ANY_COMMAND = "COMMAND"
"""Stands for a command in `sxm COMMAND --help`."""
ELSEWHERE = ("http://", "https://")
TOOL = typer.main.get_command(main.application)


def text_of(page):
    with open(os.path.join(REPOSITORY, page), encoding="utf-8") as stream:
        return stream.read()


def words_of(line):
    """The words behind `sxm` of a line of shell: up to a comment, a pipe, or what comes next."""
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    words = list(lexer)[1:]
    ends = [number for number, word in enumerate(words) if word[0] in "|;&<>"]
    return words[: ends[0]] if ends else words


def options_of(command):
    names = {name for one in command.params for name in one.opts + one.secondary_opts}
    return names | {"-h", "--help"}


def parts_of(words):
    """(options before the command, the command's name or "", the words behind it)."""
    takes_value = {
        name for one in TOOL.params for name in one.opts if not getattr(one, "is_flag", True)
    }
    number = 0
    while number < len(words) and words[number].startswith("-"):
        number += 2 if words[number] in takes_value else 1
    name = words[number] if number < len(words) else ""
    return words[:number], name, words[number + 1 :]


def wrong_with(line, whole):
    """What `sxm` would not take of it. `whole`: it is a command, else it may lack arguments."""
    before, name, behind = parts_of(words_of(line))
    wrong = [one for one in before if one.startswith("-") and one not in options_of(TOOL)]
    if name and name != ANY_COMMAND and name not in TOOL.commands:
        return wrong + [name]
    command = TOOL.commands.get(name, TOOL)
    wrong += [
        one
        for one in behind
        if one.startswith("-") and one != "-" and one.partition("=")[0] not in options_of(command)
    ]
    if whole and name in TOOL.commands and not wrong and not {"-h", "--help"} & set(behind):
        try:
            command.make_context(name, list(behind))
        except main.PARSER_ERROR as error:
            wrong.append(error.format_message())
    return wrong


@functools.lru_cache(maxsize=None)
def anchors_of(page):
    """Those that GitHub gives the headings of a page."""
    found = []
    for heading in HEADING.findall(text_of(page)):
        heading = TEXT_OF_LINK.sub(r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        found.append(anchor + ("-%d" % found.count(anchor) if anchor in found else ""))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_each_command_is_one_that_sxm_takes(page):
    text = text_of(page)
    lines = [(one, True) for one in BLOCK.findall(text) if not HEAD_OF_A_REPORT.match(one)]
    lines += [(line, False) for line in INLINE.findall(text)]
    wrong = [(line, wrong_with(line, whole)) for line, whole in lines]
    assert [one for one in wrong if one[1]] == []


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_somewhere(page):
    wrong = []
    for link in LINK.findall(text_of(page)):
        if link.startswith(ELSEWHERE):
            continue
        file, _, anchor = link.partition("#")
        there = os.path.normpath(os.path.join(os.path.dirname(page), file)) if file else page
        if not os.path.exists(os.path.join(REPOSITORY, there)):
            wrong.append(link)
        elif anchor and there.endswith(".md") and anchor not in anchors_of(there):
            wrong.append(link)
    assert wrong == []


def test_the_readme_leads_to_each_guide():
    text = text_of("README.md")
    assert [name for name in GUIDES if "(docs/%s.md)" % name not in text] == []


def test_what_is_wrong_is_seen():
    """Else the tests above would hold of any page."""
    assert wrong_with("sxm -s paris migrate --vm web --to-sr fast", True) == []
    assert wrong_with("sxm lst", False) == ["lst"]
    assert wrong_with("sxm watch --every", False) == ["--every"]
    assert wrong_with("sxm show", False) == [] != wrong_with("sxm show", True)
    assert wrong_with("sxm -x list", True) == ["-x"]
    assert words_of("sxm list --json | jq . # all") == ["list", "--json"]
    assert "the-commands" in anchors_of("docs/operations.md")
