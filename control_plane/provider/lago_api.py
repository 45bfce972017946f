"""Lago's REST interface as a port's adapter needs it: one call, its time limit, and what each failure means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx

from control_plane.provider.errors import Ambiguous, Away, NotFound, ProviderError, RateLimited, Refused

PER_PAGE: Final = 100
PAGES_MAX: Final = 10_000
CONNECT_WITHIN_S: Final = 5.0
AFTER_S_MAX: Final = 3_600.0

Document = dict[str, Any]
Query = dict[str, str | int | Sequence[str]]
"""Parameters of an address; a sequence is sent as several of one name."""


class LagoApi:
    """Speaks to one Lago. Safe to share between threads. Every method raises a kind of ProviderError and nothing else."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/api/v1/",
            headers={"Authorization": f"Bearer {key}", "Accept": "application/json", "User-Agent": "meterline"},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_WITHIN_S)),
            follow_redirects=False,
            trust_env=False,
        )

    def get(self, path: str, of: str, query: Query | None = None) -> Document:
        """The object `of` in the answer."""
        return self._object(self._call("GET", path, query=query), of)

    def find(self, path: str, of: str, query: Query | None = None) -> Document | None:
        """The same; None where there is none."""
        try:
            return self.get(path, of, query)
        except NotFound:
            return None

    def write(self, method: str, path: str, of: str, body: Document | None = None, query: Query | None = None) -> Document:
        """Sends `{of: body}`, and the object `of` in the answer."""
        return self._object(self._call(method, path, body=None if body is None else {of: body}, query=query), of)

    def page(self, path: str, of: str, number: int, count: int, query: Query | None = None) -> tuple[list[Document], int | None]:
        """(the objects of a page, the number of the next one or None)."""
        answer = self._call("GET", path, query={**(query or {}), "page": number, "per_page": count})
        listed, meta = answer.get(of), answer.get("meta")
        if not isinstance(listed, list) or not isinstance(meta, dict):
            raise Ambiguous("bad_answer", "Lago's list is not in the form that it documents.", ended=True)
        following = meta.get("next_page")
        return listed, following if isinstance(following, int) and following > number else None

    def walk(self, path: str, of: str) -> Iterator[Document]:
        """Every object of a list, page by page."""
        number: int | None = 1
        for _ in range(PAGES_MAX):
            assert number is not None
            found, number = self.page(path, of, number, PER_PAGE)
            yield from found
            if number is None:
                return
        raise Refused("too_many", f"Lago lists more than {PAGES_MAX * PER_PAGE} objects here.")

    def _call(self, method: str, path: str, *, body: Document | None = None, query: Query | None) -> Document:
        try:
            answer = self._client.request(method, path, json=body, params=query or {})
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Away("no_connection", "Lago cannot be reached.") from error
        except httpx.HTTPError as error:
            raise Ambiguous("no_answer", "Lago did not answer in time.", ended=False) from error
        if answer.is_success:
            return _document(answer)
        raise _failed(answer)

    @staticmethod
    def _object(answer: Document, of: str) -> Document:
        found = answer.get(of)
        if not isinstance(found, dict):
            raise Ambiguous("bad_answer", f"Lago's answer has no {of}.", ended=True)
        return found


def segment(external_id: str) -> str:
    """An id of ours as a part of a path."""
    return quote(external_id, safe="")


def _document(answer: httpx.Response) -> Document:
    try:
        found = answer.json() if answer.content else {}
    except ValueError as error:
        raise Ambiguous("bad_answer", "Lago's answer is no JSON.", ended=True) from error
    return found if isinstance(found, dict) else {}


def _failed(answer: httpx.Response) -> ProviderError:
    status = answer.status_code
    try:
        found = answer.json()
    except ValueError:
        found = {}
    found = found if isinstance(found, dict) else {}
    details = found.get("error_details")
    said = _details(details) if isinstance(details, dict) else ""
    code = str(found.get("code") or f"http_{status}")[:100]
    message = f"Lago says {found.get('error') or status}{': ' + said if said else ''}."
    if status in (401, 403):
        return Away("credentials", "Lago does not take the key; set METERLINE_LAGO_API_KEY right.")
    if status == 404:
        return NotFound(code, message)
    if status == 429:
        return RateLimited(code, message, _after_s(answer))
    if status >= 500 or status < 400:
        return Ambiguous(code, message, ended=True)
    return Refused(said.replace(": ", "_").partition(",")[0] or code, message)


def _details(details: Mapping[str, Any]) -> str:
    """Which field is wrong and why, as Lago names both; nothing that was sent."""
    told = []
    for field, problems in details.items():
        listed = problems if isinstance(problems, list) else [problems]
        told.append(f"{field}: {' '.join(str(problem) for problem in listed)}")
    return ", ".join(told)[:300]


def _after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after") or answer.headers.get("x-ratelimit-reset") or ""
    return min(float(text), AFTER_S_MAX) if text.isascii() and text.isdigit() and len(text) <= 6 else 1.0
