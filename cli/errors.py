"""How the errors of a command end: one line that names the options, and an exit code."""

import re
from collections.abc import Iterator
from typing import Any

import click

from ropesearch.core.errors import InputError, MissingExtraError, ParameterError

# How the library marks a parameter in a message: `overwrite=True`, `max_distance`.
_MARKED = re.compile(r"`(\w+)(?:=([^`]*))?`")


class EnvironmentFailure(click.ClickException):
    """The request is right, and this machine cannot carry it out."""

    exit_code = 1


class Command(click.Command):
    """A command whose library errors end as one line: exit code 2 for what was asked, 1 for the environment."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.UsageError(_line(error, ctx)) from None
        except MemoryError as error:
            raise EnvironmentFailure(str(error) or "not enough memory") from None
        except (MissingExtraError, OSError) as error:
            raise EnvironmentFailure(with_flags(str(error), ctx)) from None


def with_flags(text: str, ctx: click.Context) -> str:
    """Text of the library, with its marked parameters as the command line calls them: `kv_heads=8` is --kv-heads 8."""
    # A message may send the reader to an option of another command.
    flags = {str(p.name): p.opts[-1] for p in _parameters(ctx.find_root().command) if isinstance(p, click.Option)}
    flags |= _own_flags(ctx)

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in flags:
            return found[0]
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return _MARKED.sub(flag, text)


def _line(error: InputError, ctx: click.Context) -> str:
    text = str(error)
    if isinstance(error, ParameterError):  # its line begins with the parameter, unmarked
        text = _own_flags(ctx).get(error.name, error.name) + text.removeprefix(error.name)
    return with_flags(text, ctx)


def _own_flags(ctx: click.Context) -> dict[str, str]:
    return {
        str(p.name): p.opts[-1] if isinstance(p, click.Option) else p.human_readable_name for p in ctx.command.params
    }


def _parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from _parameters(child)
