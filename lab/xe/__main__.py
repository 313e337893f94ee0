# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xe: `python -m lab.xe [-s SERVER] [-p PORT] [-u USER] [-pw PASSWORD | -pwf FILE]
COMMAND [name=value ...]`.

Without -s it speaks to the unix socket of the host whose root is $SXM_ROOT. With -s it takes https,
or http where the port answers in the clear.
"""

import os
import socket
import sys
import xmlrpc.client

import XenAPI

from lab.xe.commands import COMMANDS
from lab.xe.errors import XeError, of_xapi, usage_error

USAGE = """Usage:
  %s <command>
    [ -s <server> ]            XenServer host
    [ -p <port> ]              XenServer port number
    [ -u <username> -pw <password> | -pwf <password file> ]
                               User authentication (password or file)
    [ --minimal ]              Output only values in a comma-separated lists
    [ <other arguments> ... ]  Command-specific options
"""
OPTIONS = {
    "-s": "server",
    "-p": "port",
    "-u": "username",
    "-pw": "password",
    "-pwf": "password-file",
}
HTTPS = "443"
CONNECT = 10.0


def parse(arguments):
    """(connection options, command, parameters) of a command line."""
    options, words = {}, []
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if argument in OPTIONS:
            if not arguments:
                raise usage_error("Syntax error", argument)
            options[OPTIONS[argument]] = arguments.pop(0)
        elif argument != "--nossl":
            words.append(argument)
        else:
            options["nossl"] = "true"
    parameters, command = {}, None
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("--"):
            parameters[key[2:]] = value if equals else "true"
        elif equals:
            parameters[key] = value
        elif command is None:
            command = word
        else:
            raise usage_error("Syntax error", word)
    return options, command, parameters


def _speaks_tls(server, port):
    """True if the port waits for a TLS client. xapi's clear port answers a request; a TLS one
    rejects it or hangs up."""
    with socket.create_connection((server, int(port)), CONNECT) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return not connection.recv(5).startswith(b"HTTP")


def connect(options):
    """A XenAPI session, logged in."""
    if "server" not in options:
        path = os.environ.get("SXM_ROOT", "").rstrip("/") + "/var/lib/xcp/xapi"
        session = XenAPI.Session(
            "http://" + path.replace("/", "_"), transport=XenAPI.UDSTransport()
        )
        user, password = "root", ""
    else:
        server, port = options["server"], options.get("port", HTTPS)
        scheme = "https" if "nossl" not in options and _speaks_tls(server, port) else "http"
        session = XenAPI.Session("%s://%s:%s" % (scheme, server, port), ignore_ssl=True)
        user, password = options.get("username", ""), options.get("password", "")
        if "password-file" in options:
            with open(options["password-file"]) as stream:
                user, password = stream.read().split("\n")[:2]
    session.xenapi.login_with_password(user, password, "1.0", "cli")
    return session


def run(arguments):
    """Run one command line; what it prints. Raises XeError."""
    options, command, parameters = parse(arguments)
    if command not in COMMANDS:
        raise usage_error("Unknown command", command)
    try:
        session = connect(options)
    except XenAPI.Failure as failure:
        raise of_xapi(failure.details)
    except OSError as error:
        raise XeError("Error: %s (calling connect )" % (error.strerror or error))
    try:
        return COMMANDS[command](session.xenapi, parameters)
    except XenAPI.Failure as failure:
        raise of_xapi(failure.details)
    except (OSError, xmlrpc.client.Error):
        raise XeError("Lost connection to the server.")
    finally:
        try:
            session.xenapi.session.logout()
        except (OSError, xmlrpc.client.Error, XenAPI.Failure):
            pass  # the command is done; a session that cannot be ended expires


def main():
    if len(sys.argv) == 1:
        sys.stderr.write(USAGE % "xe")
        return 0
    try:
        sys.stdout.write(run(sys.argv[1:]))
    except XeError as error:
        sys.stderr.write("".join(line + "\n" for line in error.lines))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
