# SPDX-License-Identifier: LGPL-2.1-only
"""The XenAPI calls that the product's source makes, found by its syntax:
`X.xenapi.CLASS.METHOD(...)`, and what goes by other names.

Followed are names and attributes that `X.xenapi` or `X.xenapi.CLASS` is assigned to, parameters of
the product's own functions that they are passed as, and methods that are passed on with their
arguments (`_add(api.VM.add_to_other_config, vm, key, value)`). A use of `.xenapi` that is none of
these is an error, so that nothing is left out unseen.
"""

import ast
import collections
import os

ROOT = ("root",)
ANY_CLASS = "*"  # storage_motion/xapi/records.py: the class is an argument
RECORDS = ("of", "ref", "by_uuid", "all", "named")
LOGINS = ("login_with_password", "slave_local_login_with_password")

Called = collections.namedtuple("Called", "where name count")


def sources(repository, directories):
    """{path: syntax tree} of the Python files in these directories."""
    trees = {}
    for directory in directories:
        for folder, _, names in os.walk(os.path.join(repository, directory)):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                if (
                    name.endswith(".py")
                    or text.startswith("#!")
                    and "python" in text.splitlines()[0]
                ):
                    trees[os.path.relpath(path, repository)] = ast.parse(text)
    return trees


def find(trees):
    """(calls, classes that Records is asked for) of these sources. Raises ValueError for a use of
    `.xenapi` that is not understood."""
    search = _Search(trees)
    while search.again():
        pass
    if search.strange:
        raise ValueError(
            "uses of XenAPI that this test does not understand: %s"
            % ", ".join(sorted(search.strange))
        )
    return sorted(search.calls), search.classes


def _text(node):
    value = getattr(node, "value", getattr(node, "s", None))
    return value if isinstance(value, str) else None


class _Search(object):
    def __init__(self, trees):
        self._trees = trees
        self._functions = collections.defaultdict(list)  # name -> [(path, definition)]
        self._parents = {}
        for path, tree in trees.items():
            for node in ast.walk(tree):
                for child in ast.iter_child_nodes(node):
                    self._parents[child] = node
                if isinstance(node, ast.FunctionDef):
                    self._functions[node.name].append((path, node))
        self._known = {}  # (scope, name) -> what it is
        self.calls, self.classes, self.strange = set(), set(), set()

    def again(self):
        """Look through everything once more. True if something was learned by it."""
        before = len(self._known)
        self.calls, self.classes, self.strange = set(), set(), set()
        for path, tree in self._trees.items():
            for node in ast.walk(tree):
                if isinstance(node, (ast.Attribute, ast.Name)):
                    self._look_at(path, node)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    self._look_at_call(path, node)
        return len(self._known) > before

    def _scope(self, path, node):
        while node is not None and not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            node = self._parents.get(node)
        return (path, node)

    def _meaning(self, path, node):
        """("root",), ("class", C), ("method", C, M), or None."""
        if isinstance(node, ast.Name):
            scope = self._scope(path, node)
            while scope[1] is not None:
                if (scope, node.id) in self._known:
                    return self._known[scope, node.id]
                scope = self._scope(path, self._parents.get(scope[1]))
            return self._known.get((scope, node.id))
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "_api":
                return ("class", ANY_CLASS)
            return None
        if not isinstance(node, ast.Attribute):
            return None
        if node.attr == "xenapi":
            return ROOT
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self._known.get((os.path.dirname(path), "self." + node.attr))
        inner = self._meaning(path, node.value)
        if inner == ROOT:
            # the same calls, as tasks
            return ROOT if node.attr == "Async" else ("class", node.attr)
        return ("method", inner[1], node.attr) if inner and inner[0] == "class" else None

    def _look_at(self, path, node):
        meaning, parent = self._meaning(path, node), self._parents.get(node)
        if meaning is None or isinstance(getattr(node, "ctx", None), ast.Store):
            return
        if isinstance(parent, ast.Attribute) and self._meaning(path, parent) is not None:
            return  # part of a longer one
        where = "%s:%d" % (path, node.lineno)
        if isinstance(parent, ast.Call) and parent.func is node and meaning[0] == "method":
            return self._called(where, meaning, parent, parent.args)
        if isinstance(parent, ast.Call) and node in parent.args:
            position = parent.args.index(node)
            if meaning[0] == "method":
                return self._called(where, meaning, parent, self._passed_on(path, parent, position))
            if getattr(parent.func, "id", None) == "getattr":
                return None  # records.py, `_api`
            return self._passed(path, where, meaning, parent, position)
        if isinstance(parent, ast.Assign):
            return [self._assigned(path, target, meaning) for target in parent.targets]
        if isinstance(parent, ast.Tuple) and isinstance(self._parents[parent], ast.Assign):
            return [
                self._assigned(path, target.elts[parent.elts.index(node)], meaning)
                for target in self._parents[parent].targets
            ]
        self.strange.add(where)
        return None

    def _called(self, where, meaning, call, arguments):
        if call.keywords or any(isinstance(argument, ast.Starred) for argument in arguments):
            self.strange.add(where)
        self.calls.add(Called(where, "%s.%s" % meaning[1:], len(arguments)))

    def _passed_on(self, path, call, position):
        """With what the function that gets a method as this argument calls it: its own code says
        so, else what comes after it."""
        more = call.args[position + 1 :]
        for _, definition in self._candidates(path, call):
            parameters = definition.args.args
            if parameters and parameters[0].arg == "self":
                parameters = parameters[1:]
            for node in ast.walk(definition):
                if (
                    isinstance(node, ast.Call)
                    and getattr(node.func, "id", None) == parameters[position].arg
                ):
                    given = []
                    for argument in node.args:
                        given += (
                            more[len(parameters) - position - 1 :]
                            if isinstance(argument, ast.Starred)
                            else [argument]
                        )
                    return given
        return more

    def _candidates(self, path, call):
        """[(path, definition)]: the product's functions that a call may mean."""
        name = getattr(call.func, "id", getattr(call.func, "attr", None))
        module = getattr(getattr(call.func, "value", None), "id", None)
        if module == "self":
            module = None
        return [
            (there, definition)
            for there, definition in self._functions.get(name, ())
            if (
                os.path.basename(there) == "%s.py" % module
                if module
                else there == path or len(self._functions[name]) == 1
            )
        ]

    def _assigned(self, path, target, meaning):
        if isinstance(target, ast.Name):
            self._known[self._scope(path, target), target.id] = meaning
        else:
            self._known[os.path.dirname(path), "self." + target.attr] = meaning

    def _passed(self, path, where, meaning, call, position):
        """To a function of the product: its parameter is that, too."""
        found = self._candidates(path, call)
        if not found:
            self.strange.add(where)
        for there, definition in found:
            self._known[(there, definition), definition.args.args[position].arg] = meaning

    def _look_at_call(self, path, call):
        first = _text(call.args[0]) if call.args else None
        if call.func.attr in RECORDS and first is not None:
            self.classes.add(first)
        if call.func.attr in LOGINS:
            self.calls.add(
                Called("%s:%d" % (path, call.lineno), "session." + call.func.attr, len(call.args))
            )
