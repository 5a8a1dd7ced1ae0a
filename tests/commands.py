"""The command line's own commands, as click knows them."""

import click

from securepfl.cli.main import cli


def every_command(group=cli, path=()):
    """Their names, groups included."""
    context = group.make_context("securepfl", [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield " ".join((*path, name))
        if hasattr(command, "list_commands"):
            yield from every_command(command, (*path, name))


def command_of(name):
    """The click command of this name, such as "audit budget"; of "", securepfl itself."""
    found = cli
    for word in name.split():
        found = found.get_command(click.Context(found), word)
    return found
