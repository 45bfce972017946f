"""AccountService: accounts, their keys and secrets."""

from __future__ import annotations

from typing import Final

from access.principals import sees_tenant
from control_plane.accounts import creating, service
from control_plane.accounts.schemas import EMAIL_CHARACTERS_MAX, NAME_CHARACTERS_MAX, Account, NewAccount
from control_plane.api_keys import service as api_keys
from control_plane.grpc.accounts import METHODS
from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields, timestamp
from control_plane.grpc.generated import account_pb2 as pb
from control_plane.grpc.methods import ORGANIZATIONS, SERVICES
from control_plane.refusals import not_found
from control_plane.unit import Unit

KEY_CHARACTERS_MAX: Final = 512


@METHODS.rpc(SERVICES)
def create_account(call: RpcCall, request: pb.CreateAccountRequest) -> pb.CreateAccountResponse:
    fields = Fields(request)
    wanted = NewAccount(
        organization_id=fields.identifier("organization_id"),
        name=fields.text("name", NAME_CHARACTERS_MAX, required=True),
        email=fields.email("email"),
        plan_id=fields.identifier("plan_id", required=False) or None,
        anchor_day=fields.whole("anchor_day", 1, 31, 1),
        source_services=tuple(request.source_services),
    )
    if wanted.email is not None and len(wanted.email) > EMAIL_CHARACTERS_MAX:
        fields.wrong("email", f"want at most {EMAIL_CHARACTERS_MAX} characters")
    fields.check()
    keys = api_keys.keyring_of(call.parts.settings)
    created = creating.create(call.parts, call.parts.provider, keys, call.actor, wanted)
    return pb.CreateAccountResponse(account=_account(created.account), secret_id=created.secret_id, api_key=created.key or "")


@METHODS.rpc(SERVICES)
def validate_api_key(call: RpcCall, request: pb.ValidateApiKeyRequest) -> pb.ValidateApiKeyResponse:
    fields = Fields(request)
    key = fields.text("api_key", KEY_CHARACTERS_MAX, required=True)
    fields.check()
    with call.unit() as unit:
        valid = api_keys.validate(unit, api_keys.keyring_of(call.parts.settings), key)
    if valid is None:
        return pb.ValidateApiKeyResponse(valid=False)
    return pb.ValidateApiKeyResponse(
        valid=True,
        app_id=valid.app_id or "",
        organization_id=valid.tenant_id,
        key_id=valid.key_id,
        source_services=valid.source_services,
        expire_time=timestamp(valid.expires_at),
    )


@METHODS.rpc(SERVICES)
def reveal_api_key(call: RpcCall, request: pb.RevealApiKeyRequest) -> pb.RevealApiKeyResponse:
    fields = Fields(request)
    app_id, secret_id = fields.identifier("app_id"), fields.identifier("secret_id")
    fields.check()
    keys = api_keys.keyring_of(call.parts.settings)
    with call.unit() as unit:
        account = _own(call, unit, app_id)
        key_id, key = api_keys.reveal(unit, keys, account.tenant_id, secret_id, request.reason)
    return pb.RevealApiKeyResponse(api_key=key, key_id=key_id)


@METHODS.rpc(ORGANIZATIONS)
def get_account(call: RpcCall, request: pb.GetAccountRequest) -> pb.GetAccountResponse:
    fields = Fields(request)
    app_id = fields.identifier("app_id")
    fields.check()
    with call.unit() as unit:
        return pb.GetAccountResponse(account=_account(_own(call, unit, app_id)))


@METHODS.rpc(ORGANIZATIONS)
def get_secret(call: RpcCall, request: pb.GetSecretRequest) -> pb.GetSecretResponse:
    fields = Fields(request)
    app_id, secret_id = fields.identifier("app_id"), fields.identifier("secret_id")
    fields.check()
    with call.unit() as unit:
        kept = api_keys.secret(unit, _own(call, unit, app_id).tenant_id, secret_id)
    secret = kept.secret
    of_service = call.principal.kind == "service"
    return pb.GetSecretResponse(
        secret_id=secret.secret_id,
        key_id=secret.key_id,
        algorithm=kept.algorithm,
        encryption_key_id=secret.sealed_by,
        encrypt_time=timestamp(secret.sealed_at),
        iv=secret.nonce if of_service else b"",
        ciphertext=secret.ciphertext if of_service else b"",
    )


def _own(call: RpcCall, unit: Unit, app_id: str) -> Account:
    """The account, if it is in the caller's scope; otherwise it is answered as if there were none."""
    account = service.show(unit, app_id)
    if not sees_tenant(call.principal, account.tenant_id):
        raise not_found("account")
    return account


def _account(account: Account) -> pb.Account:
    return pb.Account(
        app_id=account.app_id,
        organization_id=account.tenant_id,
        name=account.name,
        status=account.status,
        plan_id=account.plan_id or "",
        customer_id=account.customer_id or "",
        anchor_day=account.anchor_day,
        create_time=timestamp(account.created_at),
        api_keys=[
            pb.ApiKey(
                key_id=key.key_id,
                secret_id=key.secret_id or "",
                name=key.name,
                shown=key.shown,
                source_services=key.source_services,
                create_time=timestamp(key.created_at),
                expire_time=timestamp(key.expires_at),
                revoke_time=timestamp(key.revoked_at),
                last_use_time=timestamp(key.last_used_at),
            )
            for key in account.keys
        ],
    )
