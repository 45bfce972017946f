"""What a server shows to its clients, and asks of them, before a call."""

from __future__ import annotations

from pathlib import Path

import grpc

from runtime.settings import Settings, SettingsError


def credentials_of(settings: Settings) -> grpc.ServerCredentials | None:
    """The server's certificate, with the authority of its clients where one is set; None: calls come in plain text.

    Raises SettingsError for a file that cannot be read, and for a setting that is useless without another.
    """
    certificate, key = settings.grpc_tls_certificate_file, settings.grpc_tls_key_file
    authority = settings.grpc_tls_client_ca_file
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise SettingsError(
            "METERLINE_GRPC_TLS_CERTIFICATE_FILE and METERLINE_GRPC_TLS_KEY_FILE belong together; set both, or leave every "
            "METERLINE_GRPC_TLS_ variable out"
        )
    chain = _read("METERLINE_GRPC_TLS_CERTIFICATE_FILE", certificate)
    pair = (_read("METERLINE_GRPC_TLS_KEY_FILE", key), chain)
    trusted = None if authority is None else _read("METERLINE_GRPC_TLS_CLIENT_CA_FILE", authority)
    return grpc.ssl_server_credentials([pair], root_certificates=trusted, require_client_auth=trusted is not None)


def _read(name: str, path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read ({error.strerror}); name a PEM file") from None
    if b"-----BEGIN " not in text:
        raise SettingsError(f"{name}: {path} is no PEM file, which begins with -----BEGIN")
    return text
