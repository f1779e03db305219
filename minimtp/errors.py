"""The one error a user is meant to read."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one sentence that says what to do instead.

    The command line prints it without a traceback and exits with 2.
    """
