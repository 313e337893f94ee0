# SPDX-License-Identifier: LGPL-2.1-only
"""The page of a report, as a browser shows it; without one, by its markup."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree

import lxml.html
import pytest

import report_sample
from storage_motion.cli.report import page, series
from storage_motion.journal import journal
from tests import browser

HOSTILE = (
    "</title><script>alert(1)</script><img src=x onerror=alert(2)>"
    " $x^2$ \"'& {{ 7*7 }} \x1b[31m\u202egpj"
)
PARTS = ("timeline", "copy", "mirror", "latency", "bytes")
TABLES = ("plan", "timeline-table", "measured", "bytes-table", "pause", "verified")
NARROW, SMALL, EM = 390, 1000, 16
REQUIRED = "REQUIRE_BROWSER"  # set in CI, which has one


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))


@pytest.fixture
def answer():
    return report_sample.answer()


def parsed(text):
    return lxml.html.fromstring(text)


def another(answer, **changes):
    return dict(json.loads(json.dumps(answer)), **changes)


def test_it_has_its_parts_and_each_figure_says_what_it_is(answer):
    root = parsed(page.render([answer]))
    for part in PARTS:
        (figure,) = root.xpath("//figure[@class='%s']//svg" % part)
        title, description = figure.find("title"), figure.find("desc")
        assert title.text and description.text
        labels = figure.get("aria-labelledby").split()
        assert labels == [title.get("id"), description.get("id")] and figure.get("role") == "img"
    for table in TABLES:
        assert root.xpath("//table[@class='%s']//tbody/tr" % table), table
    ids = root.xpath("//@id")
    assert len(ids) == len(set(ids)), "no figure takes what is another's"
    used = re.findall(r"url\(#([^)]+)\)", page.render([answer]))
    assert used and set(used) <= set(ids)
    text = root.text_content()
    for said in ("HA of the other pool is off", "messages were not brought", "0.41 s", "0.37 s"):
        assert said in text, said


def test_it_needs_nothing_from_elsewhere_and_runs_nothing(answer):
    root = parsed(page.render([answer]))
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        assert element.tag not in ("script", "link", "iframe", "img", "object", "base"), element.tag
        for name, value in element.attrib.items():
            if name in ("href", "src") or name.endswith("}href"):
                assert value.startswith("#"), (element.tag, name, value)
            assert not name.lower().startswith("on")
    text = page.render([answer])
    assert "@import" not in text and not re.findall(r"url\((?!#)", text)
    (policy,) = root.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none';")


def hostile(answer):
    """The same migration, whose every name means ill."""
    found = json.loads(json.dumps(answer))
    found.update(vm_name=HOSTILE, error=[HOSTILE, HOSTILE], left=[HOSTILE], warnings=[HOSTILE])
    found["plan"]["warnings"] = [HOSTILE]
    found["source_host"] = HOSTILE
    for disk in found["disks"] + found["plan"]["disks"]:
        disk.update(name=HOSTILE, device=HOSTILE)
    for disk in found["plan"]["disks"]:
        disk.update(source_sr_name=HOSTILE, image_format=HOSTILE)
    for span in found["timeline"]["phases"]:
        span["title"] = HOSTILE
    for disk in found["timeline"]["disks"]:
        for gate in disk["gates"]:
            gate["step"] = HOSTILE
    return found


def test_a_name_that_means_ill_is_text_and_nothing_else(answer):
    text = page.render([hostile(answer), hostile(answer)], HOSTILE)
    root = parsed(text)
    assert not root.xpath("//script | //img | //*[@onerror]")
    assert "{{ 7*7 }}" in root.text_content() and "49" not in root.xpath("//title")[0].text
    assert "\x1b" not in text and "\u202e" not in text
    for figure in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(figure)


def test_a_name_that_no_file_can_take_is_written_all_the_same(answer, tmp_path):
    written = page.write(
        [another(answer, vm_name="a\ud800b\x00c\u65e5\u672c")], str(tmp_path / "r.html")
    )
    with open(written.html, encoding="utf-8") as source:
        assert "a\ufffdb\ufffdc\u65e5\u672c" in source.read()


def test_the_json_beside_it_has_the_answers(answer, tmp_path):
    written = page.write([answer], str(tmp_path / "web.html"))
    assert (written.html, written.json) == (str(tmp_path / "web.html"), str(tmp_path / "web.json"))
    with open(written.json) as source:
        assert json.load(source)["reports"] == [answer]
    assert sorted(os.listdir(str(tmp_path))) == ["var", "web.html", "web.json"]


def test_several_have_an_overview_that_adds_up(answer):
    failed = another(
        answer, state=journal.FAILED, error=["SXM_MIRROR_BROKEN", "k", "why"], vm_name="db"
    )
    for disk in failed["disks"]:
        disk.update(state="copying", gate=None)
    root = parsed(page.render([answer, failed, answer], "Old array to new array"))
    assert root.xpath("//h1")[0].text_content() == "Old array to new array"
    rows = [
        [cell.text_content() for cell in row]
        for row in root.xpath("//table[@class='overview']//tr")
    ]
    assert [row[0] for row in rows] == ["VM", "web", "db", "web", "all"]
    assert [row[4] for row in rows[1:]] == ["2 of 2", "0 of 2", "2 of 2", "4 of 6"]
    assert "SXM_MIRROR_BROKEN" in rows[2][1]
    assert len(root.xpath("//section")) == 3
    ids = root.xpath("//@id")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "changes",
    [
        dict(samples={"root-disk": [], "data-disk": []}),
        dict(timeline={"phases": [], "disks": [], "tries": []}),
        dict(state="running", ended=None),
        dict(disks=[], snapshots=[], samples={}, timeline={"phases": [], "disks": [], "tries": []}),
        dict(pause={"all": None, "storage": None}, state="cancelled"),
        dict(started=9e9),
    ],
)
def test_of_one_of_which_little_is_known_there_is_a_page_as_well(answer, changes):
    assert parsed(page.render([another(answer, **changes)])).xpath("//h1")


def test_rates_come_out_as_they_were(answer):
    begun = answer["started"]
    rows = [[begun + at, at * 100.0, at * 7.0, at * 2.0, at * 0.01, 0.02] for at in range(11)]
    found = series.of(another(answer, samples={"k": rows}))
    line = found.lines["k"]
    assert line.copied == [pytest.approx(100.0)] * 20 and sum(line.mirrored) * found.step == 70
    assert {round(value, 9) for value in line.latency} == {0.005}
    assert max(value or 0 for value in line.longest) == 0.02
    # a mover that follows another one counts from nothing
    rows += [[begun + 10 + at, at * 50.0, 0, 0, 0, 0] for at in range(1, 11)]
    line = series.of(another(answer, samples={"k": rows})).lines["k"]
    assert min(line.copied) == pytest.approx(50.0) and line.latency[-1] is None


def caption(root, part):
    (found,) = root.xpath("//figure[@class='%s']/figcaption" % part)
    return " ".join(found.text_content().split())


def test_how_much_was_mirrored_is_one_figure(answer):
    """The samples begin when some was mirrored already, and end before the last of it."""
    answer["samples"] = {key: rows[3:-3] for key, rows in answer["samples"].items()}
    root = parsed(page.render([answer]))
    (tile,) = root.xpath("//dt[text()='written meanwhile, mirrored']/following-sibling::dd[1]")
    assert tile.text_content() == "354 MiB"
    assert caption(root, "mirror").startswith("354 MiB mirrored; over stretches of ")
    found = series.of(answer)
    whole = sum(sum(line.mirrored) for line in found.lines.values()) * found.step
    assert whole == pytest.approx(354 << 20), "and so much is drawn"
    (tile,) = root.xpath("//dt[text()='sent, of their size']/following-sibling::dd[1]")
    sent = tile.text_content()
    assert caption(root, "copy").startswith(sent.split(" of ")[0] + " sent; over stretches of ")


def paced(answer, rate, seconds, limits=()):
    """Pieces of 1 MiB at a steady rate, seen four times a second, by somebody who is late at
    times."""
    begun, disk = answer["started"], answer["disks"][0]
    rows = []
    for at in range(4 * seconds):
        late = 0.1 * (at % 3 == 1)
        sent = int((at / 4 + late) * rate) << 20
        rows.append([begun + at / 4 + late, sent, 0, 0, 0, 0])
    disk.update(sent=rows[-1][1], mirrored_bytes=0, mirrored_writes=0)
    answer["timeline"].update(
        disks=[{"vdi": disk["vdi"], "states": [], "gates": []}], limits=list(limits)
    )
    return another(answer, samples={disk["vdi"]: rows}, disks=[disk])


def test_a_limit_that_was_kept_is_shown_as_one(answer):
    limit = {"bandwidth": 6 << 20, "begun": answer["started"], "ended": answer["started"] + 20}
    found = paced(answer, 6.0, 20, [limit])
    even = series.of(found, finest=series.even(found)).lines["root-disk"].copied
    assert max(even) <= (6 << 20) * 9 / 8, "a piece more at most"
    said = caption(parsed(page.render([found])), "copy")
    assert "on average 6.0 MiB/s" in said or "on average 5.9 MiB/s" in said, said
    assert "the limit of copy and mirror together (6.0 MiB/s)" in said
    assert "limit" not in caption(parsed(page.render([paced(answer, 6.0, 20)])), "copy")


def test_two_samples_of_one_moment_divide_nothing_by_nothing(answer):
    rows = [[answer["started"], 0, 0, 0, 0, 0], [answer["started"], 5, 5, 5, 5, 5]]
    assert page.render([another(answer, samples={"root-disk": rows})])


OVERFLOWING = """
[...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll, .drawn, svg') &&
    e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))
"""
HIDDEN = """
[...document.querySelectorAll('details > *:not(summary)')].filter(e => !e.checkVisibility(
    {contentVisibilityAuto: true})).length
"""
OUTSIDE = """
[...document.querySelectorAll('svg')].map(svg => { const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(t => { const b = t.getBoundingClientRect();
        return b.left < box.left - 2 || b.right > box.right + 2; }).map(t => t.textContent)}).flat()
"""
SCROLLING = """
[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(
    e => e.textContent.trim().slice(0, 60))
"""
PAPER = "getComputedStyle(document.documentElement).backgroundColor"
# The least contrast of text, and of what is drawn (WCAG 2.1, 1.4.3 and 1.4.11).
TEXT, DRAWN = 4.5, 3.0
GROUNDS = ("paper", "panel", "warn-panel")
WORDS = ("ink", "faint", "link", "good", "bad", "warn")


def luminance(colour):
    """Of "#rrggbb", as WCAG has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_it_can_be_read_in_the_light_and_in_the_dark(answer):
    schemes = re.findall(r":root \{(.*?)\}", page.render([answer]), re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6});", scheme))
        series = [colours[name] for name in colours if name.startswith("series-")]
        assert len(series) == 8
        for ground in GROUNDS:
            for name in WORDS:
                assert contrast(colours[name], colours[ground]) >= TEXT, (name, ground)
        assert min(contrast(one, colours["paper"]) for one in series) >= DRAWN


def test_a_browser_shows_it_well(answer, tmp_path):
    """On a wide screen and a narrow one, in the light, in the dark and on paper; the pictures stay
    in $SXM_PICTURES. Where there is no Chromium the tests above are what there is."""
    if browser.program() is None:
        assert not os.environ.get(REQUIRED), "there is no Chromium here"
        return
    pictures = os.environ.get("SXM_PICTURES") or str(tmp_path)
    plain = page.write([answer], str(tmp_path / "plain.html")).html
    worst = page.write([hostile(answer), answer], str(tmp_path / "worst.html"), HOSTILE).html
    with browser.Browser() as shown:
        for name, path in (("worst", worst), ("plain", plain)):
            shown.open(path)
            assert shown.requested() == [] and shown.complaints() == []
            for width in (80 * EM, NARROW):
                shown.show(width)
                found = shown.evaluate("document.documentElement.scrollWidth")
                assert found <= width, (name, width, shown.evaluate(OVERFLOWING))
                assert shown.evaluate(OVERFLOWING) == []
                shown.picture(os.path.join(pictures, "%s-%d.png" % (name, width)))
        assert shown.evaluate(OUTSIDE) == [], "text of a figure that lies beside it"
        shown.show(SMALL)
        assert shown.evaluate(SCROLLING) == [], "tables that are wider than the page"
        shown.show(80 * EM)
        light = shown.evaluate(PAPER)
        assert shown.evaluate(HIDDEN) > 0, "tables beside the figures are folded"
        shown.show(80 * EM, scheme="dark")
        assert light != shown.evaluate(PAPER)
        shown.picture(os.path.join(pictures, "dark.png"))
        shown.show(80 * EM, scheme="dark", media="print")
        assert shown.evaluate(PAPER) == light, "on paper it is never dark"
        assert shown.evaluate(HIDDEN) == 0, "and all is to be read"
        shown.picture(os.path.join(pictures, "print.png"))
        shown.paper(os.path.join(pictures, "report.pdf"))
