"""How a command ends that cannot go on."""

EXIT_HEALTHY = 0
EXIT_FINDINGS = 1
EXIT_COULD_NOT_RUN = 2


class CliError(Exception):
    """A command could not run; the message is all that is printed."""
