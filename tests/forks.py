"""Commands in forks of one process, since starting Python takes longer than what most of them do.

What a command imports, registers or changes in its process is gone with it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]

PROCESS = """
import json, os, runpy, sys
sys.dont_write_bytecode = True  # files may be written twice in the second that a cache knows
import alembic.command, alembic.config, alembic_audit.autogenerate.compare

def run(program, *arguments):
    sys.argv[:] = [program, *arguments]
    if program == "alembic":
        alembic.config.main(arguments, prog=program)
    elif program == "alembic-audit":
        sys.exit(__import__("alembic_audit.cli").cli.main(arguments))
    elif program == "pytest":
        sys.exit(__import__("pytest").main(["-p", "no:cacheprovider", *arguments]))
    elif program == "python":
        sys.path.insert(0, "")
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.exit(f"{program} is not known here")

for line in sys.stdin:
    wanted = json.loads(line)
    if not (child := os.fork()):
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["directory"])
        output = os.open(wanted["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout.reconfigure(line_buffering=True)
        code = 1
        try:
            run(*wanted["command"])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forks:
    """The commands alembic, alembic-audit, pytest, and python with a file."""

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process = process
        self._output = output

    def run(
        self, directory: Path, *command: str, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command in a directory; return its exit code and what it printed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        wanted = {
            "command": command,
            "directory": str(directory),
            "environment": dict(os.environ if environment is None else environment),
            "output": str(self._output),
        }
        stdin.write(json.dumps(wanted) + "\n")
        stdin.flush()
        return int(stdout.readline()), self._output.read_text()


@contextmanager
def forks(imports: str = "") -> Iterator[Forks]:
    """Start the process.

    Args:
        imports: statements that import what many commands need.
    """
    with (
        TemporaryDirectory() as directory,
        subprocess.Popen(
            # The commands leave the directory in which Python would find this package.
            [
                sys.executable,
                "-c",
                f"import sys\nsys.path[0] = {str(ROOT)!r}\n{imports}\n{PROCESS}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        yield Forks(process, Path(directory, "output"))
