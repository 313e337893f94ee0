# SPDX-License-Identifier: LGPL-2.1-only
"""What every command has in common: options that may stand before or after its name, and what it is
called with."""

import functools
import inspect
from typing import Annotated, Any, Callable, Dict, List, NamedTuple, Optional, get_type_hints

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


class Settings(NamedTuple):
    """The common options as they were given."""

    server: Server = None
    user: User = None
    password_file: PasswordFile = None
    json: Json = False


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

    def connect_other(self, one: pools.Known, remote_password_file: Optional[str]) -> Pool:
        """The pool that the VM is not in, until this command ends."""
        return self.connect(one, remote_password_file, passwords.REMOTE_VARIABLE)

    def close(self) -> None:
        """Log out everywhere."""
        while self._open:
            self._open.pop().close()


def command(function: Callable[..., Optional[int]]) -> Callable[..., int]:
    """Makes a command of `function(invocation, its options)`, which answers what `sxm` ends with
    (None: 0): the common options are added to its own. A parameter of a NamedTuple's type stands
    for the options that are its fields."""
    own = list(inspect.signature(function).parameters.values())[1:]
    groups = {one.name: one.annotation for one in own if _is_group(one.annotation)}

    @functools.wraps(function)
    def run(context: typer.Context, **given: Any) -> int:
        common = _taken(Settings, given)
        before: Settings = context.obj or Settings()
        for name, group in groups.items():
            given[name] = _taken(group, given)
        invocation = Invocation(
            before._replace(**{name: one for name, one in common._asdict().items() if one})
        )
        try:
            return function(invocation, **given) or exit_codes.DONE
        except KeyboardInterrupt:
            raise Interrupted("by you; what was begun goes on: sxm list shows it")
        finally:
            invocation.close()

    parameters = [_option("context", typer.Context)]
    for one in own:
        parameters += (
            _options_of(one.annotation)
            if one.name in groups
            else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        )
    parameters += _options_of(Settings)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__  # whose signature typer would look at
    return run


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "_fields")


def _taken(group: Any, given: Dict[str, Any]) -> Any:
    return group(**{name: given.pop(name) for name in group._fields})


def _option(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _options_of(group: Any) -> List[inspect.Parameter]:
    defaults = group._field_defaults
    return [
        _option(name, annotation, defaults[name])
        for name, annotation in get_type_hints(group, include_extras=True).items()
    ]
