"""The command line: options in, exit codes and lines out."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Final

from cyclopts import App, CycloptsError

from zotify_async_crud.cli import (
    _demo,
    _doctor,
    _imports,
    _jobs,
    _queue,
    _schema,
    _tokens,
    _watch,
    _work,
)
from zotify_async_crud.cli._input import Declined, WrongUsage
from zotify_async_crud.cli._output import PROGRAM, complain
from zotify_async_crud.errors import (
    AccessRefused,
    AdoptionRefused,
    DatabaseUnavailable,
    InvalidValue,
    SchemaMismatch,
    UnsupportedDatabase,
    ZotifyCrudError,
)

SUCCESS, FAILURE, USAGE, UNREACHABLE, SCHEMA = range(5)
"""Exit codes: all is done; it is not, and a line on stderr says why; the options are wrong; the
database cannot be reached; its tables are not those of this version."""

_OF_A_URL: Final = re.compile(r"://\S+")
"""All after the scheme: a password may hold any character, and stand in the query."""
_CODES: Final[dict[type[Exception], int]] = {
    CycloptsError: USAGE,
    WrongUsage: USAGE,
    Declined: FAILURE,
    DatabaseUnavailable: UNREACHABLE,
    AccessRefused: UNREACHABLE,
    SchemaMismatch: SCHEMA,
    AdoptionRefused: SCHEMA,
    InvalidValue: USAGE,
    UnsupportedDatabase: USAGE,
    ZotifyCrudError: FAILURE,
}


def _version() -> str:
    return metadata.version(PROGRAM)


app = App(
    name=PROGRAM,
    help="The data layer of the Zotify API: playlists, a queue of downloads and a token.\n\n"
    "Exit codes: 0 done, 1 not done, 2 wrong usage, 3 the database cannot be reached, 4 its tables"
    " are missing or of another version, 130 interrupted, 141 nobody read its output to the end.",
    version=_version,
    suppress_keyboard_interrupt=False,  # it goes to __main__, which has more to say
)
app.command(_demo.run_demo, name="demo")
app.command(_schema.migrate)
app.command(_schema.adopt)
app.command(_imports.run_import, name="import")
app.command(_jobs.enqueue)
app.command(_jobs.app)
app.command(_queue.stats)
app.command(_queue.app)
app.command(_work.run_work, name="work")
app.command(_watch.run_watch, name="watch")
app.command(_tokens.app)
app.command(_doctor.doctor)
app.register_install_completion_command()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what *arguments*, by default those of the process, ask for; return the exit code."""
    # SQLAlchemy logs, with tracebacks, what is told in one line here
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        code: int | None = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except tuple(_CODES) as error:
        complain(_of_usage(error) if isinstance(error, CycloptsError) else str(error))
        return next(code for kind, code in _CODES.items() if isinstance(error, kind))
    return code or SUCCESS


def _of_usage(error: CycloptsError) -> str:
    """Return one line. It may quote a database's URL, which may have a password."""
    return _OF_A_URL.sub("://***", " ".join(str(error).split()))
