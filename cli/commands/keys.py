"""`meterline keys issue|list|revoke|rotate`."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import click

from runtime.exits import Exit, MeterlineExit
from runtime.keyring import Keyring, keyring
from runtime.postgres import connect
from runtime.settings import Settings, SettingsError, load_settings
from store.api_key_secrets import not_kept, rotate
from store.api_keys import KeyRefused, issue, of_tenant, revoke
from store.remedies import postgres_answers


def _keyring(settings: Settings) -> Keyring:
    keys = keyring(settings)
    if keys is None:
        raise SettingsError("METERLINE_SECRET_ENCRYPT_KEY is not set; API keys are found by a hash under it")
    return keys


ROTATED_AT_ONCE = 200


@click.group(help="API keys of organizations: issue, list, revoke, rotate.")
def command() -> None:
    """What an organization's own software sends as `Authorization: Bearer sk_...`."""


@command.command("issue", help="Issue a key for TENANT and print it. It is not shown again, but by RevealApiKey.")
@click.argument("tenant")
@click.option("--name", default="default", show_default=True, help="What people call it.")
@click.option("--emits-for", "sources", multiple=True, help="A source service it may emit for; the tenant's own name by default.")
@click.option("--expires-in-days", type=click.FloatRange(0, 36_500, min_open=True), help="Its last day; none by default.")
def issue_(tenant: str, name: str, sources: tuple[str, ...], expires_in_days: float | None) -> None:
    settings = load_settings(dict(os.environ))
    expires_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    keys = _keyring(settings)
    try:
        with postgres_answers(settings), connect(settings) as connection:
            issued = issue(connection, keys, tenant, name, sources or None, expires_at)
    except KeyRefused as error:
        raise MeterlineExit(Exit.FAILED, str(error)) from error
    click.echo(issued.key)


@command.command("list", help="The keys of TENANT, which themselves are not kept.")
@click.argument("tenant")
def list_(tenant: str) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        for key in of_tenant(connection, tenant):
            ended = ""
            if key.revoked_at is not None:
                ended = f"  revoked {key.revoked_at:%Y-%m-%d %H:%M:%SZ}"
            elif key.expires_at is not None:
                ended = f"  until {key.expires_at:%Y-%m-%d %H:%M:%SZ}"
            sources = ", ".join(sorted(key.source_services))
            click.echo(f"{key.key_id}  {key.shown}...  {key.name}  emits for {sources}  since {key.created_at:%Y-%m-%d}{ended}")


@command.command("revoke", help="End the key KEY_ID now. Servers notice within seconds.")
@click.argument("key_id")
def revoke_(key_id: str) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        ended = revoke(connection, key_id)
    if not ended:
        raise MeterlineExit(Exit.FAILED, f"{key_id} is no key that is still valid; `meterline keys list TENANT` shows them")
    click.echo(f"{key_id} ended")


@command.command("rotate")
def rotate_() -> None:
    """Seal every key anew with the first secret of METERLINE_SECRET_ENCRYPT_KEY.

    To change the secret: put the new one in front of the old one (NEW,OLD) and start the servers again, in any order; rotate;
    then leave the old one out. A run that was cut is run again, and goes on where it was. Keys work all the time.
    """
    settings = load_settings(dict(os.environ))
    keys = _keyring(settings)
    resealed = 0
    unopenable: list[str] = []
    after: str | None = ""
    with postgres_answers(settings), connect(settings) as connection:
        while after is not None:
            batch = rotate(connection, keys, after, ROTATED_AT_ONCE, by="cli")
            connection.commit()
            resealed, after = resealed + batch.resealed, batch.after
            unopenable += batch.unopenable
        old = not_kept(connection)
    click.echo(f"{resealed} keys are sealed anew with the newest secret")
    if unopenable:
        raise MeterlineExit(
            Exit.FAILED,
            f"{len(unopenable)} keys are sealed with a secret that METERLINE_SECRET_ENCRYPT_KEY does not have, "
            f"{unopenable[0]} for one: add that secret behind the others and run again, or revoke them",
        )
    if old:
        raise MeterlineExit(
            Exit.FAILED,
            f"{len(old)} keys were issued before keys were sealed, so they are found by the old secret only, {old[0][0]} of "
            f"{old[0][1]} for one: issue others in their place and revoke them before you leave the old secret out",
        )
