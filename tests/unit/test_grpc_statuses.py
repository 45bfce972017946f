"""Refusals as canonical statuses with details, and requests whose fields are wrong."""

from __future__ import annotations

import typing
from decimal import Decimal

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from access.principals import AccessRefused
from control_plane.grpc.fields import Fields
from control_plane.grpc.generated import account_pb2, payment_pb2
from control_plane.grpc.statuses import CODE_OF, DETAILS_KEY, Answer, answer_of
from control_plane.refusals import Kind, Refusal


def details_of(answer: Answer | None) -> dict[str, Packed]:
    assert answer is not None
    ((key, value),) = answer.trailing_metadata
    assert key == DETAILS_KEY
    status = Status.FromString(value)
    assert (status.code, status.message) == (answer.code.value[0], answer.message)
    return {detail.TypeName().rpartition(".")[2]: detail for detail in status.details}


def test_every_kind_of_refusal_has_a_canonical_code() -> None:
    assert set(CODE_OF) == set(typing.get_args(Kind))


def test_a_refusal_tells_programs_its_reason_and_people_the_remedy() -> None:
    answer = answer_of(Refusal("conflict", "account_exists", "There is one; show it.", {"appId": "app_1"}), "req-1")
    info = ErrorInfo()
    assert details_of(answer)["ErrorInfo"].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "ACCOUNT_EXISTS",
        "meterline",
        {"requestId": "req-1", "appId": "app_1"},
    )
    assert answer is not None
    assert (answer.code, answer.message) == (grpc.StatusCode.ALREADY_EXISTS, "There is one; show it.")


def test_what_is_worth_repeating_says_when() -> None:
    busy = answer_of(Refusal("conflict", "in_use", "Again shortly.", retry_after_s=3), "r")
    assert busy is not None
    assert busy.code == grpc.StatusCode.ABORTED
    for answer in (busy, answer_of(AccessRefused(429, "too_many_requests", "Slow down.", retry_after_s=3), "r")):
        retry = RetryInfo()
        assert details_of(answer)["RetryInfo"].Unpack(retry)
        assert retry.retry_delay.seconds == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (404, grpc.StatusCode.NOT_FOUND),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (503, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_who_is_not_let_in_is_told_so_canonically(status: typing.Any, code: grpc.StatusCode) -> None:
    answer = answer_of(AccessRefused(status, "why", "Because."), "r")
    assert answer is not None
    assert answer.code == code


def test_what_nobody_foresaw_is_no_refusal() -> None:
    assert answer_of(RuntimeError("x"), "r") is None


def test_every_wrong_field_is_named_and_no_value_is_shown() -> None:
    fields = Fields(account_pb2.CreateAccountRequest(organization_id="a\x00sk_planted", email="sk_planted", anchor_day=32))
    fields.identifier("organization_id")
    fields.text("name", 10, required=True)
    fields.email("email")
    fields.whole("anchor_day", 1, 31, 1)
    with pytest.raises(Refusal) as refused:
        fields.check()
    answer = answer_of(refused.value, "r")
    bad = BadRequest()
    assert details_of(answer)["BadRequest"].Unpack(bad)
    assert [one.field for one in bad.field_violations] == ["organization_id", "name", "email", "anchor_day"]
    assert answer is not None
    assert "sk_planted" not in answer.message + repr(answer.trailing_metadata)


def test_a_mask_names_known_fields_only() -> None:
    known = frozenset({"name", "email"})
    fields = Fields(payment_pb2.UpdateCustomerRequest(update_mask={"paths": ["name"]}))
    assert fields.mask("update_mask", known) == {"name"}
    assert Fields(payment_pb2.UpdateCustomerRequest(update_mask={"paths": ["*"]})).mask("update_mask", known) == known
    for paths in ([], ["name", "nmae"]):
        wrong = Fields(payment_pb2.UpdateCustomerRequest(update_mask={"paths": paths}))
        wrong.mask("update_mask", known)
        with pytest.raises(Refusal, match="update_mask"):
            wrong.check()


@pytest.mark.parametrize("text", ["", "-1", "1e3", ".5", "1.", "01", "1.0000001", "٣", "NaN"])
def test_a_quantity_is_an_exact_decimal(text: str) -> None:
    fields = Fields(payment_pb2.RecordUsageRequest(quantity=text))
    fields.quantity("quantity")
    with pytest.raises(Refusal, match="quantity"):
        fields.check()
    assert Fields(payment_pb2.RecordUsageRequest(quantity="1.500000")).quantity("quantity") == Decimal("1.5")
