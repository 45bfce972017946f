import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BillingState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BILLING_STATE_UNSPECIFIED: _ClassVar[BillingState]
    BILLING_STATE_REQUESTED: _ClassVar[BillingState]
    BILLING_STATE_CLOSED: _ClassVar[BillingState]
    BILLING_STATE_EXPORTED: _ClassVar[BillingState]
    BILLING_STATE_CONFIRMED: _ClassVar[BillingState]
    BILLING_STATE_PAID: _ClassVar[BillingState]
    BILLING_STATE_COMPLETED: _ClassVar[BillingState]
    BILLING_STATE_UNCOLLECTED: _ClassVar[BillingState]
BILLING_STATE_UNSPECIFIED: BillingState
BILLING_STATE_REQUESTED: BillingState
BILLING_STATE_CLOSED: BillingState
BILLING_STATE_EXPORTED: BillingState
BILLING_STATE_CONFIRMED: BillingState
BILLING_STATE_PAID: BillingState
BILLING_STATE_COMPLETED: BillingState
BILLING_STATE_UNCOLLECTED: BillingState

class Account(_message.Message):
    __slots__ = ("app_id", "organization_id", "name", "status", "plan_id", "customer_id", "anchor_day", "create_time", "api_keys")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_DAY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    API_KEYS_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    organization_id: str
    name: str
    status: str
    plan_id: str
    customer_id: str
    anchor_day: int
    create_time: _timestamp_pb2.Timestamp
    api_keys: _containers.RepeatedCompositeFieldContainer[ApiKey]
    def __init__(self, app_id: _Optional[str] = ..., organization_id: _Optional[str] = ..., name: _Optional[str] = ..., status: _Optional[str] = ..., plan_id: _Optional[str] = ..., customer_id: _Optional[str] = ..., anchor_day: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., api_keys: _Optional[_Iterable[_Union[ApiKey, _Mapping]]] = ...) -> None: ...

class ApiKey(_message.Message):
    __slots__ = ("key_id", "secret_id", "name", "shown", "source_services", "create_time", "expire_time", "revoke_time", "last_use_time")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SERVICES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_USE_TIME_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    secret_id: str
    name: str
    shown: str
    source_services: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    last_use_time: _timestamp_pb2.Timestamp
    def __init__(self, key_id: _Optional[str] = ..., secret_id: _Optional[str] = ..., name: _Optional[str] = ..., shown: _Optional[str] = ..., source_services: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_use_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateAccountRequest(_message.Message):
    __slots__ = ("organization_id", "name", "email", "plan_id", "anchor_day", "source_services")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_DAY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SERVICES_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    name: str
    email: str
    plan_id: str
    anchor_day: int
    source_services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, organization_id: _Optional[str] = ..., name: _Optional[str] = ..., email: _Optional[str] = ..., plan_id: _Optional[str] = ..., anchor_day: _Optional[int] = ..., source_services: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateAccountResponse(_message.Message):
    __slots__ = ("account", "secret_id", "api_key")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    SECRET_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    account: Account
    secret_id: str
    api_key: str
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., secret_id: _Optional[str] = ..., api_key: _Optional[str] = ...) -> None: ...

class ValidateApiKeyRequest(_message.Message):
    __slots__ = ("api_key",)
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    api_key: str
    def __init__(self, api_key: _Optional[str] = ...) -> None: ...

class ValidateApiKeyResponse(_message.Message):
    __slots__ = ("valid", "app_id", "organization_id", "key_id", "source_services", "expire_time")
    VALID_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SERVICES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    app_id: str
    organization_id: str
    key_id: str
    source_services: _containers.RepeatedScalarFieldContainer[str]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, valid: _Optional[bool] = ..., app_id: _Optional[str] = ..., organization_id: _Optional[str] = ..., key_id: _Optional[str] = ..., source_services: _Optional[_Iterable[str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RevealApiKeyRequest(_message.Message):
    __slots__ = ("app_id", "secret_id", "reason")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    secret_id: str
    reason: str
    def __init__(self, app_id: _Optional[str] = ..., secret_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevealApiKeyResponse(_message.Message):
    __slots__ = ("api_key", "key_id")
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    api_key: str
    key_id: str
    def __init__(self, api_key: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("app_id",)
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    def __init__(self, app_id: _Optional[str] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: Account
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class GetSecretRequest(_message.Message):
    __slots__ = ("app_id", "secret_id")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_ID_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    secret_id: str
    def __init__(self, app_id: _Optional[str] = ..., secret_id: _Optional[str] = ...) -> None: ...

class GetSecretResponse(_message.Message):
    __slots__ = ("secret_id", "key_id", "algorithm", "encryption_key_id", "encrypt_time", "iv", "ciphertext")
    SECRET_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTION_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ENCRYPT_TIME_FIELD_NUMBER: _ClassVar[int]
    IV_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    secret_id: str
    key_id: str
    algorithm: str
    encryption_key_id: str
    encrypt_time: _timestamp_pb2.Timestamp
    iv: bytes
    ciphertext: bytes
    def __init__(self, secret_id: _Optional[str] = ..., key_id: _Optional[str] = ..., algorithm: _Optional[str] = ..., encryption_key_id: _Optional[str] = ..., encrypt_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., iv: _Optional[bytes] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...

class BillingLine(_message.Message):
    __slots__ = ("usage_type", "quantity")
    USAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    usage_type: str
    quantity: str
    def __init__(self, usage_type: _Optional[str] = ..., quantity: _Optional[str] = ...) -> None: ...

class BillingCycle(_message.Message):
    __slots__ = ("app_id", "organization_id", "period", "period_start", "period_end", "state", "reason", "invoice_id", "lines", "request_time", "change_time")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    PERIOD_START_FIELD_NUMBER: _ClassVar[int]
    PERIOD_END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    INVOICE_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    organization_id: str
    period: str
    period_start: str
    period_end: str
    state: BillingState
    reason: str
    invoice_id: str
    lines: _containers.RepeatedCompositeFieldContainer[BillingLine]
    request_time: _timestamp_pb2.Timestamp
    change_time: _timestamp_pb2.Timestamp
    def __init__(self, app_id: _Optional[str] = ..., organization_id: _Optional[str] = ..., period: _Optional[str] = ..., period_start: _Optional[str] = ..., period_end: _Optional[str] = ..., state: _Optional[_Union[BillingState, str]] = ..., reason: _Optional[str] = ..., invoice_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[BillingLine, _Mapping]]] = ..., request_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class MonthlyBillingRequest(_message.Message):
    __slots__ = ("app_id", "period")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    period: str
    def __init__(self, app_id: _Optional[str] = ..., period: _Optional[str] = ...) -> None: ...

class MonthlyBillingResponse(_message.Message):
    __slots__ = ("cycle",)
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    cycle: BillingCycle
    def __init__(self, cycle: _Optional[_Union[BillingCycle, _Mapping]] = ...) -> None: ...

class UpdateBillingStatusRequest(_message.Message):
    __slots__ = ("app_id", "period", "state")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    period: str
    state: BillingState
    def __init__(self, app_id: _Optional[str] = ..., period: _Optional[str] = ..., state: _Optional[_Union[BillingState, str]] = ...) -> None: ...

class UpdateBillingStatusResponse(_message.Message):
    __slots__ = ("cycle",)
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    cycle: BillingCycle
    def __init__(self, cycle: _Optional[_Union[BillingCycle, _Mapping]] = ...) -> None: ...
