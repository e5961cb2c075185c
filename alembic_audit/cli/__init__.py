"""The command ``alembic-audit``."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import sqlalchemy as sa

from alembic_audit.cli.errors import EXIT_COULD_NOT_RUN, CliError
from alembic_audit.cli.text import escaped
from alembic_audit.errors import AuditError
from alembic_audit.version import __version__

_CLOSED_PIPE = 141
"""What a shell shows of a program that SIGPIPE ended."""

_INTERRUPTED = 130
"""What a shell shows of a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``alembic-audit``.

    Args:
        argv: The arguments; those of the process without any.

    Returns:
        The exit code: 0, 1 where there are findings, 2 where it could not run.
    """
    if find_spec("rich") is None:
        print("alembic-audit needs rich: pip install 'alembic_audit[cli]'", file=sys.stderr)
        return EXIT_COULD_NOT_RUN
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except CliError as error:
        return _failed(str(error))
    except AuditError as error:
        return _failed(escaped(str(error)))
    except sa.exc.DBAPIError as error:
        reason = escaped(str(error.orig).strip().partition("\n")[0])
        return _failed(
            f"the connection is lost: {reason}" if error.connection_invalidated else reason
        )
    except BrokenPipeError:
        _forget_output()
        return _CLOSED_PIPE
    except KeyboardInterrupt:
        _forget_output()
        return _INTERRUPTED


def _forget_output() -> None:
    """Print nothing more: the interpreter would complain of a closed pipe when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str) -> int:
    print(f"alembic-audit: {message}", file=sys.stderr)
    return EXIT_COULD_NOT_RUN


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``alembic-audit``."""
    from alembic_audit.cli import doctor, log, past, status, tail

    made = argparse.ArgumentParser(
        prog="alembic-audit", description="Look at PostgreSQL audit trails; nothing is changed."
    )
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (doctor, log, tail, past, status):
        command.add_to(commands)
    return made
