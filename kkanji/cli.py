"""How every command line of the project starts and ends: exit codes, messages without tracebacks, clean-up on signals.

| ends by | exit code | stderr |
|---|---|---|
| success | 0 | |
| a problem found: the command raises SystemExit | 1 | |
| InputError, a file or folder that cannot be used | 2 | `error: ...`, at most 500 characters, all of them printable |
| Ctrl-C | 130 | `interrupted`, and how far the command was |
| the reader of a pipe has left (`... | head`) | 141 | |
| SIGHUP, the terminal is closed | 129 | `terminated`, and how far the command was |
| SIGTERM | 143 | `terminated`, and how far the command was |
"""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import docstring_parser
import tyro

from shards.errors import DISK_FULL, InputError, shortened

Options = TypeVar("Options")

PROBLEM = 1
INPUT_ERROR = 2
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived: unwinds the stack, so that every `with` and `finally` on it cleans up."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        """number: of the signal."""
        super().__init__(number)
        self.number = number


def run(command: Callable[[], object]) -> NoReturn:
    """Run a command and leave the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    _escape_output()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # by nohup
        signal.signal(signal.SIGHUP, _terminate)
    if not sys.warnoptions:
        warnings.simplefilter("once", UserWarning)
    warnings.showwarning = _show_warning
    sys.exit(_exit_code(command))


def parse(kind: Callable[..., Options], words: Sequence[str] | None = None) -> Options:
    """The command line as a value of this dataclass, or passed to this function; docstrings are the help.

    words: of the command line; None takes those of the process. Leaves with status 2 on misuse.
    """
    if {"-h", "--help"} & set(sys.argv):
        _unwrap_help(kind)
    return tyro.cli(kind, args=words, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.SuppressFixed))


def _unwrap_help(kind: Any) -> None:
    """Annotate options with their docstrings in one line: tyro would break the help wherever the source wraps."""
    docs = {doc.arg_name: doc.description or "" for doc in docstring_parser.parse_from_object(kind).params}
    for name, annotation in kind.__annotations__.items():
        if is_dataclass(annotation):
            _unwrap_help(annotation)
        elif name in docs:
            kind.__annotations__[name] = Annotated[annotation, tyro.conf.arg(help=" ".join(docs[name].split()))]


def _exit_code(command: Callable[[], object]) -> int:
    try:
        command()
        sys.stdout.flush()
    except InputError as error:
        return _fail(f"error: {error}", INPUT_ERROR)
    except BrokenPipeError:
        drop_output()
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is None and error.errno not in DISK_FULL:
            raise
        return _fail(_with_notes(f"error: {_described(error)}", error), INPUT_ERROR)
    except KeyboardInterrupt as end:
        return _fail(_with_notes("interrupted", end), INTERRUPTED)
    except Terminated as end:
        return _fail(_with_notes("terminated", end), 128 + end.number)
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # a second one must not disturb the clean-up
    raise Terminated(number)


def _described(error: OSError) -> str:
    where = "" if error.filename is None else f"{error.filename}: "
    remedy = "; free some space and run it again" if error.errno in DISK_FULL else ""
    return f"{where}{error.strerror}{remedy}"


def _with_notes(message: str, end: BaseException) -> str:
    """The message, and the notes that the interrupted code added to the exception: how far it was (PEP 678)."""
    return "; ".join([message, *getattr(end, "__notes__", [])])


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def say(message: str) -> None:
    """Print to stderr, wherever that is: a terminal that is gone is no reason to lose what runs."""
    with suppress(OSError):
        print(shortened(message), file=sys.stderr)


def _escape_output() -> None:
    """Characters that the terminal's encoding lacks are escaped: a traceback is no answer to a Japanese name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard what is and will be printed to a closed pipe: Python would raise again when it flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    say(f"warning: {message}")
