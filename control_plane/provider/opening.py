"""The payment provider of the settings."""

from __future__ import annotations

from control_plane.provider.lago import LagoProvider
from control_plane.provider.port import Provider
from control_plane.provider.stripe import StripeProvider
from runtime.settings import Settings, SettingsError


def open_provider(settings: Settings) -> Provider:
    """Connects to nothing. Raises SettingsError without a key, or for one that would be sent where it does not belong."""
    return _lago(settings) if settings.payment_provider == "lago" else _stripe(settings)


def is_configured(settings: Settings) -> bool:
    """Whether there are credentials for the chosen provider."""
    key = settings.lago_api_key if settings.payment_provider == "lago" else settings.stripe_secret_key
    return key is not None


def _stripe(settings: Settings) -> Provider:
    if settings.stripe_secret_key is None:
        raise SettingsError("METERLINE_STRIPE_SECRET_KEY: set the secret key of the Stripe account (sk_test_... or sk_live_...)")
    key = settings.stripe_secret_key.get_secret_value()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError("METERLINE_STRIPE_SECRET_KEY: this is no key; it looks like sk_test_...")
    provider = StripeProvider(key, api_base=settings.stripe_api_base, timeout_s=settings.stripe_timeout_s)
    if provider.livemode and settings.stripe_api_base:
        raise SettingsError(
            "METERLINE_STRIPE_API_BASE is set: a live key is sent to Stripe only; use a test key here, or unset it"
        )
    return provider


def _lago(settings: Settings) -> Provider:
    if settings.lago_api_key is None:
        raise SettingsError("METERLINE_LAGO_API_KEY: set the API key of the Lago organization")
    key = settings.lago_api_key.get_secret_value()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError("METERLINE_LAGO_API_KEY: this is no key")
    provider = LagoProvider(settings.lago_api_url, key, timeout_s=settings.lago_timeout_s)
    if provider.livemode and not settings.lago_api_url.startswith("https://"):
        raise SettingsError("METERLINE_LAGO_API_URL: the key is sent there, so it must begin with https://")
    return provider
