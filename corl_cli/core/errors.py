"""Errors that a user can mend: one line of what is wrong and the next thing to type."""


class CorlError(Exception):
    """A run failed for a reason that a user can mend (exit code 1).

    `message` says what is wrong in one line; `hint` is the next thing to do or type.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CorlError):
    """The command line or the recipe is wrong: nothing was started (exit code 2)."""

    exit_code = 2


class Interrupted(CorlError):
    """The run was stopped from outside and has saved its state (exit code 128 + signal)."""

    def __init__(self, message: str, hint: str | None = None, *, signal: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal
