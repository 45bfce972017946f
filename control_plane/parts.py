"""What the control plane is made of in one process: built once, handed down. Tests put their own in."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.provider.opening import is_configured, open_provider
from control_plane.provider.port import Provider
from control_plane.refusals import Refusal
from control_plane.unit import Units
from runtime.settings import Settings
from runtime.warehouse import Readers


@dataclass(frozen=True, slots=True)
class Parts:
    """What endpoints, RPCs and loops share."""

    settings: Settings
    units: Units
    readers: Readers
    """Of ClickHouse."""
    payment_provider: Provider | None = None
    """None where none is configured."""

    @property
    def provider(self) -> Provider:
        """Where customers and subscriptions are held. Raises Refusal where none is configured."""
        if self.payment_provider is None:
            raise Refusal(
                "precondition",
                "no_payment_provider",
                "No payment provider is configured; an operator has to set METERLINE_STRIPE_SECRET_KEY, or Lago's key.",
            )
        return self.payment_provider


def parts_of(settings: Settings) -> Parts:
    """The real ones; nothing connects yet. Raises SettingsError for a provider's key that is none."""
    provider = open_provider(settings) if is_configured(settings) else None
    return Parts(settings, Units(settings), Readers(settings), provider)
