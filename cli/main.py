"""`meterline`: a command is imported when it is called, so `--help` starts no stage and no client library."""

from __future__ import annotations

import importlib
import os
import sys

import click

from runtime.exits import Exit, MeterlineExit
from runtime.settings import SettingsError

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module in cli.commands, the line that --help shows; held equal to the command's own by a test)
    "aggregate": ("aggregate", "Count range deltas into Postgres."),
    "alerts": ("alerts", "Threshold alerts: list them, tell of them again."),
    "consume": ("consume", "Admit each event once, from Kafka into ClickHouse."),
    "credits": ("credits", "Credits of users: show an account and its ledger, allow one to owe."),
    "demo": ("demo", "Run the whole path on real parts, kill things on the way, and prove the numbers."),
    "doctor": ("doctor", "Check every connection and setting; each failure with its remedy."),
    "down": ("down", "Stop what `up` started on the data folder."),
    "emit": ("emit", "Publish events from a file."),
    "explain": ("explain", "Show where an event is: position, verdict, row, delta, counter, exports."),
    "export": ("export", "Push monthly totals to Stripe meters."),
    "keys": ("keys", "API keys of organizations: issue, list, revoke, rotate."),
    "forget": ("forget", "Forget a tenant or a user: ids become pseudonyms, bytes go, no number changes."),
    "migrate": ("migrate", "Bring Postgres and ClickHouse to this build's schema."),
    "plans": ("plans", "The catalog as code."),
    "reconcile": ("reconcile", "Check that every number is what the log says."),
    "rejects": ("rejects", "Dead letters: list, show, send again after a fix."),
    "restore": ("restore", "Go on after a restored backup, or after the loss of a store."),
    "rules": ("rules", "The rules that decide what an event is: which are in force, and the next ones."),
    "secrets": ("secrets", "Secrets of services: make, list, retire, revoke."),
    "serve": ("serve", "Serve the entitlement endpoint, the control plane, its gRPC services, or all of them in one process."),
    "stripe": ("stripe", "Customers, products, meters and prices at Stripe, made from the catalog."),
    "topics": ("topics", "The topics: create them, compare them with their declarations, change their partitions."),
    "webhooks": ("webhooks", "Webhooks of Stripe, Clerk and Lago: list what came in, work on it again."),
    "up": ("up", "Start the embedded stack and all stages, supervised, until Ctrl-C."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and help line; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"cli.commands.{COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="meterline-server", prog_name="meterline")
def group() -> None:
    """Usage metering that a company can bet its invoices on.

    Events go in at Kafka, are admitted once into ClickHouse, are counted once in Postgres, and leave as monthly totals
    at Stripe. Settings come from METERLINE_* variables; .env.example names them all.
    """


def main() -> None:
    """The console script: turns the errors that have a remedy into one line and a named exit code."""
    try:
        code = group.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else Exit.OK)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(Exit.FAILED)
    except SettingsError as error:
        click.echo(f"meterline: {error}", err=True)
        sys.exit(Exit.SETTINGS)
    except MeterlineExit as error:
        click.echo(f"meterline: {error} (exit {error.code.value}: {error.code.name})", err=True)
        sys.exit(error.code)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing more to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
