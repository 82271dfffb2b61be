"""The command line: finds the command, and turns whatever goes wrong into one line and an exit code.

0: done. 1: the work failed. 2: the input is wrong. 130: stopped by Ctrl-C. Commands are thin and live in
factory.commands; what they need is imported when they run, so that --help is instant. Rich help is off
because importing it would double the time of --help.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType
from typing import Annotated

import typer

from factory import __version__
from factory.commands import ask, audit, look, merge, promotion, recipes, refiner, runs, verdicts
from factory.errors import FactoryError
from factory.printable import printable

HELP = """Turns a domain into a fine-tuned model: generate, refine, train, evaluate, again.

Every step is kept in one DuckDB file that `factory sql` opens.
"""
DISK_TROUBLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT)

app = typer.Typer(
    name="factory",
    help=HELP,
    epilog="Example: factory init my_domain && factory run my_domain",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works after any command.")
    ] = False,
) -> None:
    """Options that stand before the command; --debug is taken out by `main`, wherever it stands."""
    if version:
        print(__version__)
        raise typer.Exit


recipes.add_to(app)
runs.add_to(app)
look.add_to(app)
merge.add_to(app)
ask.add_to(app)
promotion.add_to(app)
audit.add_to(app)
refiner.add_to(app)
verdicts.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `arguments` default to the process's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    if arguments is None:
        _behave_in_a_process()
    try:
        result = app(words, prog_name="factory", standalone_mode=False)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, SystemExit) as error:  # the one place where everything ends
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
            raise  # typer's own, where the reader went away
        if debug:
            traceback.print_exc()
        return _tell(error, as_json="json" in _values(words, "--log-format"))
    if result == 130:
        print("stopped; the same command goes on with what is stored", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _values(words: Sequence[str], option: str) -> set[str]:
    """What an option is given, in either way of writing it."""
    joined = {word.removeprefix(f"{option}=") for word in words if word.startswith(f"{option}=")}
    return joined | {value for word, value in pairwise(words) if word == option}


def _tell(error: Exception | SystemExit, as_json: bool) -> int:
    """Prints an error on one line of stderr; returns the exit code that it deserves."""
    code, text = 1, f"internal error: {type(error).__name__}: {error} (--debug shows where)"
    if isinstance(error, FactoryError):
        code, text = error.exit_code, f"error: {error}"
    elif isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "factory"
        code, text = error.exit_code, f"error: {error.format_message()} — see `{command} --help`"
    elif isinstance(error, SystemExit):  # only a plug-in of somebody else's, which may not end the program
        text = (
            f"error: {_origin(error)} ended the program: SystemExit: {error} — it must raise an error instead"
        )
    elif isinstance(error, OSError) and error.errno in DISK_TROUBLE:
        code, text = 2, f"error: {error.filename or 'disk'}: {error.strerror}"
    text = printable(" ".join(text.split()))
    if as_json:
        import json

        text = json.dumps({"event": "error", "text": text.removeprefix("error: "), "exit_code": code})
    print(text, file=sys.stderr)
    for line in getattr(error, "log_tail", ()):
        print("  " + printable(line), file=sys.stderr)
    return code


def _origin(error: BaseException) -> str:
    """The file and line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Does what Ctrl-C does: while an event loop runs, it takes that one at a safe place."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # started in the background of a shell, where Ctrl-C is ignored
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _behave_in_a_process() -> None:
    """A plea to end is an interrupt, so that servers are stopped; odd characters never break printing."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
