"""AccountService, whole."""

from __future__ import annotations

from control_plane.grpc import account_billing, account_keys
from control_plane.grpc.accounts import METHODS

__all__ = ["METHODS", "account_billing", "account_keys"]
