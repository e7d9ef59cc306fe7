"""Errors that a user can mend."""


class UserError(ValueError):
    """What the user gave is wrong: the message names the thing, its value and the limit.

    Experiment scripts print it as one line and exit with status 2, without a stack trace.
    """
