"""What can go wrong, as one tree. Each message ends in a cure."""

from __future__ import annotations


class DiagnoseError(Exception):
    """Anything that diagnose reports in one line, without a traceback."""


class ConfigError(DiagnoseError):
    """The configuration cannot be used."""


class FileError(ConfigError):
    """A file that people write cannot be used: where, what, and what to write instead."""

    def __init__(self, *, path: str, line: int, problem: str, hint: str, column: int | None = None) -> None:
        place = f"{path}:{line}" if column is None else f"{path}:{line}:{column}"
        super().__init__(f"{place}: {problem}. {hint}.")
        self.path, self.line, self.problem, self.hint = path, line, problem, hint
        self.column = column


class RuleFileError(FileError):
    """A rule or remedy file cannot be used."""


class InputError(DiagnoseError):
    """Something that was asked to be read cannot be read."""


class JournalError(DiagnoseError):
    """The journal cannot be opened or is of another version."""


class ActuatorError(DiagnoseError):
    """A step was not done, or only in part; the message says which."""


class ControllerError(ActuatorError):
    """The server could not be started, stopped or adopted."""


class UnitDownError(ControllerError):
    """systemd did try to start the server's unit, and it runs no server: it may yet."""
