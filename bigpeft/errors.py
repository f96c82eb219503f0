"""Errors that a user can mend. Each says what is wrong, why, and what to do instead.

`launch/train.py` and the `bigpeft` command turn every `UserError` into one message on the
terminal and exit code 2; any other exception is a bug and exits with 1.
"""

EXIT_DONE, EXIT_BUG, EXIT_USER, EXIT_RESUMABLE, EXIT_INTERRUPTED = 0, 1, 2, 75, 130


class UserError(Exception):
    """Base of everything that a user can mend.

    `what` names the recipe key, file, layer or host; `why` says what is wrong with it, as the
    rest of a sentence that starts with `what`; `fix` says what to write or do instead.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(f"{what}: {why}\n  fix: {fix}")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        """Errors travel between ranks."""
        return type(self), (self.what, self.why, self.fix)


class RecipeError(UserError):
    """A recipe that cannot run: `what` is the key (with file and line where they are known)."""


class FileError(UserError):
    """A file or folder that is missing, unreadable, unwritable or of the wrong kind."""


class WeightError(UserError):
    """Model files that do not hold what the configuration promises."""


class DataError(UserError):
    """Training rows that cannot be used: `what` is the file and row."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, incomplete, or belongs to another run."""


class ShapeError(UserError):
    """A method whose options do not fit the layer that it sits on: `what` is the layer."""


class StoppedEarly(Exception):
    """The run stopped as asked and can be resumed (exit code 75)."""
