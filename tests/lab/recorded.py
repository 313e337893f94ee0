# SPDX-License-Identifier: LGPL-2.1-only
"""docs/facts/recorded: what a real xapi was asked and answered, for the tests that hold the lab's
against it."""

import os
import xmlrpc.client

from xapi_fixture import REPOSITORY

DIRECTORY = os.path.join(REPOSITORY, "docs/facts/recorded")


def read(name):
    """The bytes of a file."""
    with open(os.path.join(DIRECTORY, name), "rb") as file:
        return file.read()


def request(name):
    """(method, parameters without the session) of a recorded call."""
    parameters, method = xmlrpc.client.loads(read(name + ".request"))
    return method, list(parameters[1:])


def response(name):
    """{"Status", "Value" or "ErrorDescription"} as it was answered."""
    return xmlrpc.client.loads(read(name + ".response"))[0][0]


def value(name):
    """What a recorded call answered."""
    return response(name)["Value"]


def failure(name):
    """[code, parameter, ...] with which a recorded call failed."""
    return response(name)["ErrorDescription"]


def shape(answer, depth=1):
    """Of what an answer consists: the types in it, with the keys of structs down to `depth` (of
    maps below that only their kinds)."""
    if isinstance(answer, dict):
        return {key: shape(item, depth - 1) for key, item in answer.items()} if depth else "map"
    if isinstance(answer, list):
        return "set"
    return type(answer).__name__
