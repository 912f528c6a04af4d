"""The exceptions that are meant for a person."""


class UserError(Exception):
    """A mistake that the user can mend: one line that says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class Interrupted(Exception):
    """Somebody asked to stop, and what was done so far is saved. The command line exits with code 130."""
