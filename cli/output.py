"""Where results go, by the same rules for every command that prints one.

stdout is for the result; stderr is for progress, notes and errors, and `--quiet` leaves only errors there.

- A command prints its result in the form that its help names. `--json` and `--csv` choose another.
- `-o FILE` of `compare`, `export`, `extrema`, `show`, `table` and `waveform` writes the result to FILE instead of
  printing it. The suffix of FILE chooses the format.
- `-o FILE` of `measure`, `search` and `sweep` writes a file of the command's own kind, beside what it prints.
- `-o FILE` of `report` writes the page, and nothing is printed.
- `-o -` stands for stdout. The first six then print as without `-o`; the others print the file that they would have
  written, in place of the table.
- Two formats at once (`--json --csv`, or `-o x.csv --json` of the first six) and a suffix that the command does not
  write are refused before the work.
- A file that exists is replaced only with `--overwrite`. Files are written whole or not at all; that of a sweep grows
  row by row.
- A reader of stdout that goes away, such as `head`, ends the command silently, with exit code 0.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, cast

import click

from ropesearch.core.errors import InputError, ParameterError, printable
from ropesearch.core.files import check_output, naming, write_whole

from .options import F, combined, overwrite_option, quiet_option

Content = str | Iterable[bytes]
Formats = Mapping[str, Callable[[], Content]]
"""What makes a result, by the suffix of the format; a table for the terminal has none."""

PRINTED = {"": "a table", ".csv": "CSV", ".json": "JSON", ".md": "Markdown"}
FLAGS = {".csv": "as_csv", ".json": "as_json"}


@dataclass(frozen=True)
class Output:
    """Where the result of one command goes.

    Attributes
    ----------
    path : str or None
        The file to write.
    printed : str or None
        The format that is printed, as a suffix, "" for a table; None if nothing is.
    overwrite : bool
        Whether a file that exists may be replaced.
    quiet : bool
        Whether progress and notes stay away.
    """

    path: str | None
    printed: str | None
    overwrite: bool
    quiet: bool

    @property
    def suffix(self) -> str:
        """Suffix of the format of a result that goes to one place only."""
        return Path(self.path).suffix if self.path is not None else str(self.printed)

    def deliver(self, formats: Formats, notes: Iterable[str] = ()) -> None:
        """Write the result to its file, print it, and say so."""
        if self.path is not None:
            write_whole(self.path, formats[Path(self.path).suffix](), overwrite=self.overwrite)
        self.print(formats, notes)
        self.wrote(self.path)

    def print(self, formats: Formats, notes: Iterable[str] = ()) -> None:
        """Print the result on stdout, if it is to be printed, and the notes on stderr."""
        if self.printed is not None:
            echo(formats[self.printed]())
        for text in notes:
            note(text, quiet=self.quiet)

    def wrote(self, *paths: object) -> None:
        """Say which files were written; None is none."""
        for path in paths:
            if path is not None:
                say(f"wrote {path}", quiet=self.quiet)


def result_options(printed: str, *written: str) -> Callable[[F], F]:
    """Options of a command that prints its result, or writes it to a file instead; the function gets them as `out`.

    Parameters
    ----------
    printed : str
        The format that it prints in by itself, a key of `PRINTED`.
    *written : str
        Suffixes of the formats that it writes; of these, JSON and CSV can be printed too.
    """
    help_text = f"Write to FILE instead of printing; its suffix chooses the format: {_either(written)}."
    return _options(help_text, printed, written, [suffix for suffix in FLAGS if suffix in written], beside=False)


def file_options(kind: str, written: str, *formats: str, also: str = "", required: bool = False) -> Callable[[F], F]:
    """Options of a command that prints a table and writes a file of its own; the function gets them as `out`.

    Parameters
    ----------
    kind : str
        What the help calls the file.
    written : str
        Its suffix.
    *formats : str
        Suffixes of the formats that can be printed in place of the table.
    also : str
        What else is written with it.
    required : bool
        Whether there must be a file.
    """
    help_text = f"Write {kind} ({written})" + (f", and {also}." if also else ".")
    return _options(help_text, "", (written,), formats, beside=True, required=required)


def _options(
    help_text: str,
    default: str,
    written: Sequence[str],
    formats: Sequence[str],
    *,
    beside: bool,
    required: bool = False,
) -> Callable[[F], F]:
    """Add the options to a function and give it what they come to, an Output, as `out`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def command(*args: Any, output: str | None, overwrite: bool, quiet: bool, **others: Any) -> Any:
            flags = {suffix: others.pop(name, False) for suffix, name in FLAGS.items()}
            asked = {suffix: f"--{suffix[1:]}" for suffix, given in flags.items() if given}
            path, printed = _decide(output, asked, default, written, beside=beside)
            if path is not None:
                check_output(path, overwrite=overwrite or others.get("resume", False))
            return function(*args, out=Output(path, printed, overwrite, quiet), **others)

        return cast(F, options(command))

    options = combined(
        click.option("-o", "--output", type=click.Path(), metavar="FILE", required=required, help=help_text),
        *(_format_option(suffix, default) for suffix in formats),
        overwrite_option,
        quiet_option,
    )
    return decorate


def _decide(
    output: str | None, asked: dict[str, str], default: str, written: Sequence[str], *, beside: bool
) -> tuple[str | None, str | None]:
    """Return the file to write and the format to print; `asked` has the flag for each format that was asked for."""
    path = None if output == "-" else output
    if path is not None:
        suffix = Path(path).suffix
        if suffix == ".gguf":
            from ropesearch.exporters.formats import NO_GGUF

            raise InputError(NO_GGUF)
        if suffix not in written:
            raise ParameterError("output", path, f"a {_either(written)} file")
        if not beside:
            asked.setdefault(suffix, f"--output {path}")
    elif output is not None and beside:
        asked.setdefault(written[0], "--output -")
    if len(asked) > 1:
        msg = f"{' and '.join(asked.values())} ask for two formats; give one of them"
        raise click.UsageError(msg)
    return path, None if path is not None and not beside else next(iter(asked), default)


def _format_option(suffix: str, default: str) -> Callable[[F], F]:
    instead = ", the default" if suffix == default else f" instead of {PRINTED[default]}"
    return click.option(f"--{suffix[1:]}", FLAGS[suffix], is_flag=True, help=f"Print {PRINTED[suffix]}{instead}.")


def _either(suffixes: Sequence[str]) -> str:
    *some, last = suffixes
    return f"{', '.join(some)} or {last}" if some else last


def on_terminal() -> bool:
    """Whether somebody watches stderr, which may be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def note(text: str, *, quiet: bool) -> None:
    """Say on stderr what the result does not show."""
    say(f"note: {text}", quiet=quiet)


def say(line: str, *, quiet: bool) -> None:
    """Print a line on stderr."""
    if not quiet:
        echo(printable(line) + "\n", err=True)


def echo(content: Content, *, err: bool = False) -> None:
    """Print as it is, but for characters that the encoding lacks, which are escaped.

    Where nobody reads stdout any more, the command ends; stderr is not what it works for.
    """
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError) if err else pipe_may_close(), naming("stdout"):
        for part in [content] if isinstance(content, str) else content:
            if isinstance(part, str):
                part = part.encode(encoding, "backslashreplace").decode(encoding)
            click.echo(part, nl=False, err=err)


def open_standard_streams() -> None:
    """Open whichever of the three is closed, to nowhere: a file that took its number would get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def pipe_may_close() -> Iterator[None]:
    """End the command, as one that did its work, where the reader of stdout is gone."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None
