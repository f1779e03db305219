"""The errors a user is meant to read: the command line prints their message without a traceback."""


class UserError(Exception):
    """The user's input cannot be used. The message is one sentence that says what to do instead.
    Exit code 2.
    """


class MeasurementFailed(Exception):
    """The results of a measurement are unreliable, or one of its processes ended. The message says
    why. Exit code 1.
    """
