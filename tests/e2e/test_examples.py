"""The examples, each on real sockets: a client, the proxy, the sign-in, the model, and the control plane behind them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from examples.chat_proxy.proxy import Addresses, create_proxy
from examples.stand_ins.auth_service import Person, create_auth_service
from examples.stand_ins.model import create_model
from examples.summary_service.service import create_service
from runtime.http_server import answer, listen
from runtime.life import Stop
from runtime.postgres import connect
from runtime.settings import Settings
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.credit_customers import (
    MODEL,
    TENANT,
    Customer,
    assert_the_ledger_holds,
    customer,
    let_expire,
    with_catalog,
)
from tests.fakes.pipeline import wait_until
from tests.fakes.sweeping import sweep_all
from tests.fakes.tokens import USER_SECRET, user_token

PASSWORD = "enigma"
GUIDE = Path(__file__).parents[2] / "docs" / "integration-guide.md"


@contextmanager
def on_a_socket(app: FastAPI) -> Iterator[str]:
    """Its address while the block runs."""
    stop, listener = Stop(), listen("127.0.0.1", 0)
    server = threading.Thread(target=lambda: asyncio.run(answer(app, listener, stop, 5.0)))
    server.start()
    try:
        # Bound already; it listens once the application has started.
        wait_until("it listens", lambda: _accepts(listener.getsockname()))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        server.join(10)
        listener.close()


def _accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


class Place:
    """Everything that the examples need, and who has signed up."""

    def __init__(self, settings: Settings, control_plane: httpx.Client, stack: ExitStack) -> None:
        self.settings, self.control_plane = settings, control_plane
        self.people: dict[str, Person] = {}
        accounting = str(control_plane.base_url)
        auth = stack.enter_context(on_a_socket(create_auth_service(USER_SECRET, self.people)))
        model = stack.enter_context(on_a_socket(create_model()))
        proxy = create_proxy(Addresses(accounting, auth, model), MODEL, heartbeat_every_s=0.05)
        self.proxy = stack.enter_context(on_a_socket(proxy))
        self.summaries = stack.enter_context(on_a_socket(create_service(accounting, MODEL)))

    def signed_up(self, credits_: int | str) -> Customer:
        made = customer(self.settings, self.control_plane, credits_)
        name = made.owner.user_id
        self.people[name] = Person(name, PASSWORD, f"{name}@example.com", TENANT)
        return made

    def sessions(self, who: Customer) -> list[tuple[Any, ...]]:
        with connect(self.settings) as connection:
            query = "SELECT state, used, charged, session_id, reported FROM streaming_sessions WHERE user_id = %s"
            return connection.execute(query, (who.owner.user_id,)).fetchall()


@pytest.fixture(scope="module")
def place(migrated: Settings) -> Iterator[Place]:
    settings = with_catalog(migrated)
    with ExitStack() as stack:
        client = stack.enter_context(control_plane_served(settings))
        yield Place(settings, client, stack)
    assert_the_ledger_holds(settings)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def chat(place: Place, who: Customer, message: str, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    """Signs in with credentials, and reads the answer to its end."""
    asked = {"username": who.owner.user_id, "password": PASSWORD, "message": message, **body}
    with httpx.stream("POST", f"{place.proxy}/chat", json=asked, timeout=20) as answered:
        assert answered.status_code == 200, answered.read()
        return list(events_of(answered.iter_lines()))


def test_a_chat_streams_its_tokens_and_ends_with_the_new_balance(place: Place) -> None:
    ada = place.signed_up(10)
    events = chat(place, ada, "what is a bill, in tokens: 7")
    assert [name for name, _ in events] == ["token"] * 7 + ["done"]
    assert " ".join(data["text"] for name, data in events if name == "token") == "every billable thing that happens is an"
    # Seven tokens of input, seven of output; the longest answer was held, and the rest of it came back.
    last = events[-1][1]
    assert (Decimal(last["chargedCredits"]), Decimal(last["balance"])) == (Decimal("0.028"), Decimal("9.972"))
    assert (ada.balance, ada.held) == (Decimal("9.972"), Decimal(0))


def test_a_token_that_the_client_has_is_taken_as_it_is(place: Place) -> None:
    ada = place.signed_up(10)
    asked = {"message": "two tokens: 2"}
    with httpx.stream("POST", f"{place.proxy}/chat", json=asked, headers=ada.headers(), timeout=20) as answered:
        assert [name for name, _ in events_of(answered.iter_lines())] == ["token", "token", "done"]


def test_a_client_that_goes_away_pays_what_was_generated_until_then(place: Place) -> None:
    ada = place.signed_up(100)
    asked = {"username": ada.owner.user_id, "password": PASSWORD, "message": "a long one: 4000", "max_tokens": 4_000}
    with httpx.stream("POST", f"{place.proxy}/chat", json=asked, timeout=20) as answered:
        told = events_of(answered.iter_lines())
        for _ in range(20):
            next(told)
    wait_until("the session is settled", lambda: place.sessions(ada)[0][0] != "active")
    ((state, used, charged, _, _),) = place.sessions(ada)
    assert state == "aborted"
    # What the proxy had passed on when it saw that nobody reads any more.
    assert 20 <= used[1] < 4_000
    assert charged == Decimal(used[0]) / 1_000 + Decimal(used[1]) * 3 / 1_000
    assert (ada.balance, ada.held) == (100 - charged, Decimal(0))


def test_a_proxy_that_dies_leaves_a_session_that_the_sweeper_ends_as_its_heartbeats_said(place: Place) -> None:
    ada = place.signed_up(100)
    asked = {"username": ada.owner.user_id, "password": PASSWORD, "message": "a long one: 4000", "max_tokens": 4_000}
    with ExitStack() as stack:
        addresses = Addresses(str(place.control_plane.base_url), *_others(place, stack))
        proxy = stack.enter_context(on_a_socket(create_proxy(addresses, MODEL, heartbeat_every_s=0.05)))
        answered = stack.enter_context(httpx.stream("POST", f"{proxy}/chat", json=asked, timeout=20))
        told = events_of(answered.iter_lines())
        next(told)
        wait_until("a heartbeat has told of some", lambda: place.sessions(ada)[0][4][1] > 0)

        def swept() -> bool:
            # As if the proxy had been silent for the session's time; its next heartbeat may come between the two.
            let_expire(place.settings, place.sessions(ada)[0][3])
            sweep_all(place.settings)
            return bool(place.sessions(ada)[0][0] == "expired")

        wait_until("the sweeper has come before a heartbeat", swept)
        ((state, used, charged, _, _),) = place.sessions(ada)
        assert (state, charged) == ("expired", Decimal(used[0]) / 1_000 + Decimal(used[1]) * 3 / 1_000)
    wait_until("the late end is charged too", lambda: place.sessions(ada)[0][0] == "aborted")
    assert ada.balance == 100 - place.sessions(ada)[0][2]


def _others(place: Place, stack: ExitStack) -> tuple[str, str]:
    auth = stack.enter_context(on_a_socket(create_auth_service(USER_SECRET, place.people)))
    return auth, stack.enter_context(on_a_socket(create_model()))


@pytest.mark.parametrize(
    ("credits_", "over", "status", "code"),
    [
        ("0", {}, 402, "insufficient_credits"),
        ("0.05", {}, 402, "insufficient_credits"),
        ("10", {"password": "wrong"}, 401, "not_signed_in"),
        ("10", {"username": None}, 401, "not_signed_in"),
    ],
)
def test_who_cannot_pay_or_did_not_sign_in_is_told_before_anything_is_streamed(
    place: Place, credits_: str, over: dict[str, Any], status: int, code: str
) -> None:
    ada = place.signed_up(credits_)
    asked = {"username": ada.owner.user_id, "password": PASSWORD, "message": "hello", **over}
    answered = httpx.post(f"{place.proxy}/chat", json=asked, timeout=20)
    assert (answered.status_code, answered.json()["detail"]["code"]) == (status, code)
    assert (ada.balance, ada.held, place.sessions(ada)) == (Decimal(credits_), Decimal(0), [])


def test_the_summary_service_works_then_charges_once_for_its_work(place: Place) -> None:
    ada = place.signed_up(1)
    body = {"text": "a bill is a sum that can be proved", "work_id": uuid.uuid4().hex}
    first, again = (httpx.post(f"{place.summaries}/summaries", json=body, headers=ada.headers(), timeout=20) for _ in range(2))
    assert first.status_code == 200, first.text
    # Nine tokens in and nine out.
    assert first.json() == {"summary": body["text"], "credits": "0.036", "balance": "0.964"}
    assert again.json() == first.json()
    assert ada.balance == Decimal("0.964")


def test_the_summary_service_does_not_work_for_who_cannot_pay(place: Place) -> None:
    for credits_ in ("0", "0.035"):
        ada = place.signed_up(credits_)
        body = {"text": "a bill is a sum that can be proved"}
        answered = httpx.post(f"{place.summaries}/summaries", json=body, headers=ada.headers(), timeout=20)
        assert (answered.status_code, answered.json()["detail"]["code"]) == (402, "insufficient_credits")
        assert ada.balance == Decimal(credits_)
    stranger = {"Authorization": f"Bearer {user_token('nobody', tenantId='tnt_nowhere')}"}
    answered = httpx.post(f"{place.summaries}/summaries", json=body, headers=stranger, timeout=20)
    assert answered.status_code == 403


def test_the_calls_of_the_guide_run_as_they_stand(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    ada = place.signed_up(10)
    (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    here = code.replace("http://127.0.0.1:3006", str(place.control_plane.base_url))
    here = here.replace("Bearer THE_TOKEN", ada.headers()["Authorization"])
    names: dict[str, Any] = {}
    exec(compile(here, "guide", "exec"), names)  # noqa: S102 - our own document
    names["api"].close()
    assert capsys.readouterr().out == "0.156 9.844\n"
    assert ada.balance == Decimal("9.844")
