"""Run one command for as long as the parent lives, then remove its directory.

Started by `tools.postgres` as a script of its own:

    python -I -S supervise.py DIRECTORY UID COMMAND...

Standard input is a pipe from the parent. The kernel closes it however the parent ends, SIGKILL
included, and on every Unix. PR_SET_PDEATHSIG does not offer that: it is Linux only, is forgotten
when credentials change, and follows the parent's *thread*.
"""

import select
import shutil
import signal
import subprocess
import sys


def main(directory: str, uid: str, *command: str) -> int:
    """Run `command` until standard input ends or is written to.

    Args:
        directory: removed once the parent asked for the end, or is gone. If the command ends by
            itself, the directory stays, so that the parent can read the log.
        uid: user and group to run the command as; "-" for the present ones.
        command: a PostgreSQL server; SIGQUIT is its "immediate shutdown".

    Returns:
        The exit status for this process: the command's own, if it ended by itself.
    """
    if uid == "-":
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    else:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, user=int(uid), group=int(uid), extra_groups=[]
        )
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        if child.poll() is not None:
            return child.returncode or 1
    child.send_signal(signal.SIGQUIT)  # no checkpoint is worth waiting for: the data is thrown away
    child.wait()
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
