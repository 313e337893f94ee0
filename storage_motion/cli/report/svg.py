# SPDX-License-Identifier: LGPL-2.1-only
"""Figures of matplotlib's as SVG in the midst of a page: with a title and a description for who
cannot see them, in the page's colours, and with nothing that comes from elsewhere."""

import io
import warnings
from typing import Any, Dict, List

import matplotlib
from lxml import etree
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
# Colours of no meaning, each of which becomes a variable of the page's style sheet.
INK, FAINT, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040401", "#040402", "#040403", "#040404", "#040405", "#040406", "#040407", "#040408")
VARIABLES: Dict[str, str] = {INK: "--ink", FAINT: "--faint", GRID: "--grid"}
VARIABLES.update({colour: "--series-%d" % (at + 1) for at, colour in enumerate(SERIES)})
STYLE: Dict[str, Any] = {
    "svg.hashsalt": "sxm",  # the same page of the same report
    "svg.fonttype": "none",  # text stays text: it can be read, found and made larger
    "text.parse_math": False,  # a name with two dollars is no formula
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.xmargin": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def style() -> Any:
    """A context in which figures are to be made and drawn."""
    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]  # which wants their names' types


def figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, drawn by nobody's window. In `style`."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    return made


def markup(made: Figure, name: str, title: str, description: str) -> str:
    """The figure as an element `svg`. `name`: of letters, digits and dashes, and no other's in the
    page. In `style`."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # It measures text by a font of its own, which lacks letters that the page's has.
        warnings.filterwarnings("ignore", message="Glyph")
        made.savefig(
            drawn,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _for_page(drawn.getvalue(), name, title, description)


def _for_page(drawn: bytes, name: str, title: str, description: str) -> str:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
    root = etree.fromstring(drawn, parser)
    for tag in ("metadata", "style"):  # the page's own style sheet is for all figures
        for element in list(root.iter(SVG + tag)):
            element.getparent().remove(element)
    _rename(root, name)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _in_colours_of_page(element.get("style")))
    for unwanted in ("width", "height", "version"):
        root.attrib.pop(unwanted, None)
    root.set("role", "img")
    root.set("class", "chart")
    root.set("aria-labelledby", "%s-title %s-desc" % (name, name))
    for at, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = etree.Element(SVG + tag, {"id": "%s-%s" % (name, tag)})
        element.text = words
        root.insert(at, element)
    etree.cleanup_namespaces(root)
    text: str = etree.tostring(root, encoding="unicode")
    return text


def _in_colours_of_page(style: str) -> str:
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, "var(%s)" % variable)
    return style


def _rename(root: Any, name: str) -> None:
    """Several figures are in one page, and each has its `figure_1`."""
    used: List[str] = []
    for element in root.iter():
        if "id" in element.attrib:
            used.append(element.get("id"))
            element.set("id", "%s-%s" % (name, element.get("id")))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == XLINK_HREF and value.startswith("#"):
                element.set(key, "#%s-%s" % (name, value[1:]))
            elif "url(#" in value:
                element.set(key, value.replace("url(#", "url(#%s-" % name))
