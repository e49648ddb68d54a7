"""Write docs/cli.md, the reference of the command line, from the commands themselves.

python docs/make_cli.py
"""

from inspect import getdoc
from pathlib import Path

import click
from ropesearch.cli import output
from ropesearch.cli.main import cli


def sections(command, name):
    context = click.Context(command, info_name=name, terminal_width=100, **cli.context_settings)
    yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            yield from sections(command.commands[child], f"{name} {child}")


def page():
    head = "<!-- Made by `python docs/make_cli.py`. -->\n\n# Command line\n"
    return "\n".join([head, EXIT_CODES, f"## Output\n\n{getdoc(output)}\n", *sections(cli, "ropesearch")])


EXIT_CODES = """\
Exit codes: 0, done; 2, an option or an input file is wrong or missing; 1, the environment: an output that exists or
cannot be written, memory, network, device, a missing extra; 130, interrupted. An error is one line that names the
option.
"""

if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page())
