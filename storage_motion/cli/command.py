# SPDX-License-Identifier: LGPL-2.1-only
"""What every command has in common: options that may stand before or after its name, and what it is
called with."""

import functools
import inspect
from typing import Annotated, Any, Callable, Dict, List, NamedTuple, Optional

import typer

from storage_motion.cli import exit_codes, passwords, pools
from storage_motion.cli.failures import Interrupted
from storage_motion.cli.output import Output
from storage_motion.cli.pools import Pool

Server = Annotated[
    Optional[str],
    typer.Option(
        "-s",
        "--server",
        metavar="POOL",
        help="The VM's pool: its name in the configuration, or its master's address "
        "(also: SXM_SERVER).",
    ),
]
User = Annotated[
    Optional[str], typer.Option("-u", "--user", metavar="NAME", help="Who logs in there (root).")
]
PasswordFile = Annotated[
    Optional[str],
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="Its first line is the password; -: of standard input.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]

COMMON = {"server": Server, "user": User, "password_file": PasswordFile, "json": Json}


class Settings(NamedTuple):
    """The common options as they were given."""

    server: Optional[str] = None
    user: Optional[str] = None
    password_file: Optional[str] = None
    json: bool = False


class Invocation:
    """One run of a command. `out`: where it speaks; `pool`: that of the VM, which is logged in to
    at its first use, and out at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.out = Output(settings.json)
        self._pool: Optional[Pool] = None
        self._open: List[Pool] = []

    @property
    def pool(self) -> Pool:
        """Raises what pools.known and pools.connect do."""
        if self._pool is None:
            one = pools.known(self.settings.server, self.settings.user)
            self._pool = self.connect(one, self.settings.password_file)
        return self._pool

    def connect(
        self,
        one: pools.Known,
        password_file: Optional[str] = None,
        variable: str = passwords.VARIABLE,
    ) -> Pool:
        """Another pool, until this command ends."""
        pool = pools.connect(one, self.out.note, password_file, variable)
        self._open.append(pool)
        return pool

    def close(self) -> None:
        """Log out everywhere."""
        while self._open:
            self._open.pop().close()


def command(function: Callable[..., Optional[int]]) -> Callable[..., int]:
    """Makes a command of `function(invocation, its options)`, which answers what `sxm` ends with
    (None: 0): the common options are added to its own."""

    @functools.wraps(function)
    def run(context: typer.Context, **given: Any) -> int:
        before: Settings = context.obj or Settings()
        own = Settings(**{name: given.pop(name) for name in COMMON})
        invocation = Invocation(
            Settings(*[late or early for late, early in zip(own, before)])  # type: ignore[arg-type]
        )
        try:
            return function(invocation, **given) or exit_codes.DONE
        except KeyboardInterrupt:
            raise Interrupted("by you; what was begun goes on: sxm list shows it")
        finally:
            invocation.close()

    parameters = list(inspect.signature(function).parameters.values())[1:]
    one = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    defaults: Dict[str, Any] = Settings()._asdict()
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one("context", annotation=typer.Context)]
        + [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        + [one(name, annotation=kind, default=defaults[name]) for name, kind in COMMON.items()]
    )
    run.__annotations__ = dict(
        {parameter.name: parameter.annotation for parameter in parameters},
        context=typer.Context,
        **COMMON,
    )
    del run.__wrapped__  # whose signature typer would look at
    return run
