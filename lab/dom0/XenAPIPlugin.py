# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for xapi's XenAPIPlugin: runs one function of a plugin as xapi asked for it in
argv[1]."""

import sys
import xmlrpc.client

import lab_dom0


class Failure(Exception):
    """A plugin's own failure: reaches the caller of host.call_plugin with this code and these
    parameters."""

    def __init__(self, code, params):
        super(Failure, self).__init__(code, *params)
        self.params = [code] + list(params)

    def __str__(self):
        return str(self.params)


def success_message(result):
    """The response that carries `result`."""
    return xmlrpc.client.dumps(({"Status": "Success", "Value": result},), "", True)


def failure_message(description):
    """The response that carries a failure: `description` is [code, parameter, ...]."""
    return xmlrpc.client.dumps(({"Status": "Failure", "ErrorDescription": description},), "", True)


def dispatch(fn_table):
    """Run the method call in argv[1] by `fn_table` (name -> function(session, args)) and print the
    response."""
    if len(sys.argv) != 2:
        raise Exception("Incorrect number of commandline arguments")
    (session_ref, args), name = xmlrpc.client.loads(sys.argv[1])
    if name not in fn_table:
        print(failure_message(["UNKNOWN_XENAPI_PLUGIN_FUNCTION", name]))
        return
    session = lab_dom0.xapi_local()
    session._session = session_ref
    try:
        print(success_message(fn_table[name](session, args)))
    except Failure as failure:
        print(failure_message(failure.params))
    except Exception as error:  # whatever a plugin raises must still reach xapi as a response
        print(
            failure_message(["XENAPI_PLUGIN_FAILURE", name, error.__class__.__name__, str(error)])
        )
