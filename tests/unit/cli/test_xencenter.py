# SPDX-License-Identifier: LGPL-2.1-only
"""The plug-in for XenCenter: its XML holds what XenCenter's parser wants, and its script has what
the XML names. The script itself runs on Windows alone, and not here.

The parser is xenserver/xenadmin, XenAdmin/Plugins (December 2023): PluginManager.cs,
PluginDescriptor.cs, Features/{Feature,MenuItemFeature,ParentMenuItemFeature}.cs, Cmd/{ShellCmd,
PowerShellCmd,XenServerPowerShellCmd}.cs; the documented attributes are docs.xenserver.com's
"XenCenter plug-in specification". What the parser passes over in silence, as the name of an
attribute that it does not know or a value that it cannot read, is an error here.
"""

import os
import re

import pytest
from lxml import etree

from storage_motion.api import functions

REPOSITORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")
NAME = "StorageXenMotion"
FOLDER = "Plugins\\XCP\\%s\\" % NAME  # below the one that XenCenter is in (PluginManager.cs)
NAMESPACE = "http://www.citrix.com/XenCenter/Plugins/schema"

TEXT, BOOLEAN, NUMBER = r".+", r"(?i:true|false)", r"\d+(\.\d+)?"
MENU = "file|view|pool|server|vm|storage|templates|tools|window|help"  # enum PluginMenu
CONTEXT = "none|pool|server|vm|storage|template|folder"  # enum PluginContextMenu
SERIALIZED = "none|global|obj"  # enum PluginSerializationLevel
SHELL = {
    "filename": TEXT,
    "window": BOOLEAN,
    "log_output": BOOLEAN,
    "dispose_time": NUMBER,
    "param": TEXT,
    "required_methods": TEXT,
    "required_method_list": TEXT,
}
POWERSHELL = dict(SHELL, debug=BOOLEAN, function=TEXT)
FEATURE = dict.fromkeys(("name", "label", "description", "tooltip", "icon", "search"), TEXT)
ATTRIBUTES = {
    "XenCenterPlugin": {
        "version": "1|2",
        "plugin_version": r"\d+(\.\d+){3}",
        "label": TEXT,
        "description": TEXT,
        "copyright": TEXT,
        "link": TEXT,
    },
    "MethodList": {"name": TEXT},
    "GroupMenuItem": dict(FEATURE, menu=MENU, contextmenu=CONTEXT),
    "MenuItem": dict(FEATURE, menu=MENU, contextmenu=CONTEXT, serialized=SERIALIZED),
    "Shell": SHELL,
    "PowerShell": POWERSHELL,
    "XenServerPowerShell": POWERSHELL,
}
REQUIRED = {
    "XenCenterPlugin": ("version",),
    "MethodList": ("name",),
    "GroupMenuItem": ("name", "menu"),
    "MenuItem": ("name", "menu"),
    "Shell": ("filename",),
    "PowerShell": ("filename",),
    "XenServerPowerShell": ("filename",),
}
COMMANDS = ("Shell", "PowerShell", "XenServerPowerShell")
CHILDREN = {
    "XenCenterPlugin": ("MethodList", "GroupMenuItem", "MenuItem"),
    "GroupMenuItem": ("MenuItem",),
    "MenuItem": COMMANDS,
}


def read(name):
    with open(os.path.join(REPOSITORY, "xencenter", name), encoding="utf-8") as source:
        return source.read()


def parsed(text):
    """The root. XenCenter drops blanks between elements as it reads (XmlDocument, as it is)."""
    return etree.fromstring(text.encode(), etree.XMLParser(remove_blank_text=True))


def wrong(root):
    """What the parser would refuse, or pass over."""
    found = [] if local(root) == "XenCenterPlugin" else ["the root is %s" % local(root)]
    for element in root.iter(etree.Element):
        name = local(element)
        if element.prefix is not None or etree.QName(element).namespace != NAMESPACE:
            found.append("%s is not in the default namespace" % name)
        if name not in ATTRIBUTES:
            found.append("no element %s is known" % name)
            continue
        known = ATTRIBUTES[name]
        found += ["%s has no %s" % (name, one) for one in REQUIRED[name] if not element.get(one)]
        for attribute, value in element.attrib.items():
            if not re.fullmatch(known.get(attribute, "(?!)"), value):
                found.append("%s: %s=%r" % (name, attribute, value))
        for child in element.iterchildren(etree.Element):
            if local(child) not in CHILDREN.get(name, ()):
                found.append("%s in %s" % (local(child), name))
        if name == "MenuItem" and len(element) != 1:  # also a comment counts (ChildNodes.Count)
            found.append("MenuItem has %d nodes in it, not one" % len(element))
    lists = [one.get("name") for one in root.iter("{%s}MethodList" % NAMESPACE)]
    for element in root.iter(etree.Element):
        wanted = element.get("required_method_list")
        if wanted and lists.count(wanted) != 1:
            found.append("no MethodList %s" % wanted)
    return found


def local(element):
    return etree.QName(element).localname


def test_the_xml_is_what_xencenter_reads():
    root = parsed(read(NAME + ".xcplugin.xml"))
    assert wrong(root) == []
    (group,) = root.findall("{%s}GroupMenuItem" % NAMESPACE)
    assert group.get("menu") == "vm"
    assert [one.get("label") for one in group] == [
        "Move with Storage XenMotion...",
        "Show migration",
        "Cancel",
    ]
    assert {one.get("menu") for one in group} == {"vm"}
    (methods,) = root.findall("{%s}MethodList" % NAMESPACE)
    assert methods.text.strip().split(",") == ["host.call_plugin"]


ITEM = '<MenuItem name="n" menu="vm">%s</MenuItem>'
RIGHT = '<Shell filename="a.exe"/>'


@pytest.mark.parametrize(
    "inside, told",
    [
        (ITEM % RIGHT, []),
        (ITEM % (RIGHT + RIGHT), ["MenuItem has 2 nodes in it, not one"]),
        (ITEM % ("<!-- x -->" + RIGHT), ["MenuItem has 2 nodes in it, not one"]),
        (ITEM % "<Shell/>", ["Shell has no filename"]),
        (ITEM % '<Bash filename="x"/>', ["Bash in MenuItem", "no element Bash is known"]),
        ('<MenuItem name="n">%s</MenuItem>' % RIGHT, ["MenuItem has no menu"]),
        ('<MenuItem menu="vm">%s</MenuItem>' % RIGHT, ["MenuItem has no name"]),
        ('<MenuItem name="n" menu="VM">%s</MenuItem>' % RIGHT, ["MenuItem: menu='VM'"]),
        (ITEM % '<Shell filename="x" windw="true"/>', ["Shell: windw='true'"]),
        (ITEM % '<Shell filename="x" window="yes"/>', ["Shell: window='yes'"]),
        (ITEM % '<Shell filename="x" function="f"/>', ["Shell: function='f'"]),
        (ITEM % '<Shell filename="x" required_method_list="m"/>', ["no MethodList m"]),
    ],
)
def test_what_xencenter_would_not_read_is_found(inside, told):
    text = '<XenCenterPlugin xmlns="%s" version="1">%s</XenCenterPlugin>' % (NAMESPACE, inside)
    assert wrong(parsed(text)) == told


def test_the_xml_and_the_script_fit_together():
    root, script = parsed(read(NAME + ".xcplugin.xml")), read(NAME + ".ps1")
    defined = re.findall(r"^function ([A-Z][a-zA-Z]+-[A-Z][a-zA-Z]+)", script, re.M)
    assert len(defined) == len(set(defined))
    for command in root.iter("{%s}XenServerPowerShell" % NAMESPACE):
        assert command.get("filename") == FOLDER + NAME + ".ps1"
        assert command.get("function") in defined
    ours = set(re.findall(r"\b[A-Z][a-z]+-(?:\w*Sxm\w*)\b", script))
    assert ours <= set(defined), "each that is called is there"
    assert script.isascii(), (
        "Windows PowerShell reads a file without a mark as the system's code page"
    )


def test_no_text_reaches_the_window_but_cleaned():
    lines = [one for one in read(NAME + ".ps1").splitlines() if "Write-Host" in one]
    assert lines == ["    Write-Host ($Text -replace '[\\p{Cc}\\p{Cf}]', '?') @look"]


def test_all_that_a_plan_says_to_a_person_is_shown_before_the_yes():
    """Notes and warnings. An older plugin has no notes, which PowerShell passes over."""
    asked = read(NAME + ".ps1").split("function Start-SxmMove")[1].split("Type yes to begin")[0]
    shown = re.findall(r"foreach \(\$(\w+) in \$plan\.(\w+)\) \{\n +Write-Sxm (.*)\n", asked)
    told = {field: text for name, field, text in shown if "$" + name in text}
    assert told["notes"] == '"Note: $note"'
    assert told["warnings"] == '"Warning: $warning" Yellow'


def test_the_script_asks_the_plugin_for_what_it_has():
    calls = re.findall(r"Invoke-Sxm '([a-z-]+)'", read(NAME + ".ps1"))
    assert sorted(set(calls)) == ["cancel", "migrate", "status"]
    assert set(calls) <= set(functions.FUNCTIONS)
    script = read(NAME + ".ps1")
    for name in re.findall(r"'([a-z-]+)' = ", script):
        assert any(
            name == one.name
            for call in set(calls)
            for one in functions.FUNCTIONS[call].takes.arguments
        ), name
