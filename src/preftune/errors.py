"""The one exception that is meant for a person."""


class UserError(Exception):
    """A mistake that the user can mend: one line that says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
