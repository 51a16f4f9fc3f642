"""The log of a run, on the terminal and in a file; text from files is escaped, so that it cannot steer a terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fiveline.record.atomic import open_no_link

# Control characters, marks that turn the direction of text, and lone surrogates (from a file's name that is not UTF-8).
# U+200C and U+200D, which join letters and emoji, stay.
UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb\U000e0001]"
)


def escaped(text: str) -> str:
    """Return a name as one line that is safe to print: an escape character becomes `\\x1b`, a line end `\\n`."""
    return UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def escaped_lines(text: str) -> str:
    """Return a message that is safe to print; its line ends and tabs stay."""
    return "".join(escaped(part) if part not in "\n\t" else part for part in re.split(r"([\n\t])", text))


class SafeFormatter(logging.Formatter):
    """Formats lines of a log so that a name in them cannot steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a line."""
        return escaped_lines(super().format(record))


def set_logger(log_path: Path | str | None, level: int = logging.INFO) -> None:
    """Send `logging.info(...)` to standard output and a file, errors to standard error; None: all to standard error."""
    logger = logging.getLogger()
    logger.setLevel(level)
    for handler in logger.handlers[:]:
        # a plain StreamHandler comes from logging.basicConfig: with it, the terminal would show each line twice
        if isinstance(handler, _LogFile | _Output) or type(handler) is logging.StreamHandler:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # lines that a full disk did not take
                handler.close()
    new: dict[logging.Handler, str] = {logging.StreamHandler() if log_path is None else _Output(): "%(message)s"}
    if log_path is not None:
        log_file = _LogFile(log_path, encoding="utf-8", errors="backslashreplace")  # not every name is UTF-8
        new[log_file] = "%(asctime)s:%(levelname)s: %(message)s"
    for handler, line_format in new.items():
        handler.setFormatter(SafeFormatter(line_format))
        logger.addHandler(handler)


class _Output(logging.StreamHandler):
    """The log on standard output, and errors on standard error. A run whose output cannot be written goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self.stream is sys.stdout:  # the disk is full, or the reader of a pipe, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                logging.error(f"- the output cannot be written ({error}); it lacks lines of the log")


class _LogFile(logging.FileHandler):
    """A log file, never a link. On a full disk a few KB of lines wait for room, and one error says so."""

    has_failed = False

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=open_no_link)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not self.has_failed:
            self.has_failed = True
            logging.error(f"- {self.baseFilename}: cannot be written ({sys.exc_info()[1]}); the log may lack lines")


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Format metrics as in the seed's log: `accuracy: 0.906 ; loss: 0.519`."""
    return " ; ".join(f"{name}: {value:05.3f}" for name, value in metrics.items())
