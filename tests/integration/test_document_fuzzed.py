"""The document, attacked: requests that nobody thought of, valid and not, with every kind of credentials, on the real stack.

Whatever is sent, the answer must be one that the document has for it: status, media type, headers and body; no defect of the
server, no wrong input taken, no route that lets in who shows nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis
from hypothesis.errors import Unsatisfiable
from pydantic import SecretStr
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from entitlements.openapi import OPERATIONS
from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store.api_keys import issue
from tests.fakes.tokens import ISSUER, USER_SECRET, clerk_key, clerk_token, pem_of, user_token
from tests.integration.entitlement_data import TENANT, put_catalog
from tests.integration.serving import serving

EXAMPLES = 16

load_all_checks()
NOT_ASKED = {
    # The rules of an event say more than a JSON schema can: valid by the schema may still be refused, with a code.
    "positive_data_acceptance",
    # Every kind of credentials, right and wrong, has a test of its own that walks the routes.
    "ignored_auth",
    # Nothing here is created under a path of its own and deleted.
    *("use_after_free", "ensure_resource_availability"),
    # An answer that takes long on a busy machine is no defect of the document.
    "max_response_time",
}
ASKED: list[Any] = [check for check in CHECKS.get_all() if check.__name__ not in NOT_ASKED]


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    tokens = {
        "jwt_access_secret": SecretStr(USER_SECRET),
        "clerk_jwt_key": pem_of(clerk_key("one")),
        "clerk_issuer": ISSUER,
        "secret_encrypt_key": SecretStr("a secret of the keyring"),
        "rate_limit_user_per_s": 0,
        "rate_limit_key_per_s": 0,
    }
    return migrated.model_copy(update=tokens)


@pytest.fixture(scope="module")
def credentials(configured: Settings) -> list[Mapping[str, str]]:
    """One of each kind that the document declares."""
    secret, _ = put_catalog(configured)
    keys = keyring(configured)
    assert keys is not None
    with connect(configured) as connection:
        key = issue(connection, keys, TENANT, "fuzz").key
    bearers = [key, user_token(role="admin", tenantId=TENANT), clerk_token(TENANT, "admin")]
    return [{"X-Service-Secret": secret}, *({"Authorization": f"Bearer {token}"} for token in bearers)]


@pytest.fixture(scope="module")
def document(configured: Settings, credentials: list[Mapping[str, str]]) -> Iterator[Any]:
    with serving(configured, secret=None) as server:
        # The credentials are ours to choose: made-up ones beside them would be two kinds, which are refused.
        config = schemathesis.Config()
        config.projects.default.generation.update(with_security_parameters=False)
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json", config=config, wait_for_schema=10)
        assert not [line for line in server.logged() if line["level"] == "error"]


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), [(operation.method, operation.path) for operation in OPERATIONS])
def test_whatever_is_asked_the_answer_is_one_of_the_document(
    document: Any, credentials: list[Mapping[str, str]], method: str, path: str, mode: GenerationMode
) -> None:
    # A batch is taken apart: what is wrong with an item is said in its own result, under 207.
    unasked = {"negative_data_rejection"} if path.endswith("/usage/batch") else set()
    asked = [check for check in ASKED if check.__name__ not in unasked]
    # With each kind of credentials once about whatever was made up, and once about a tenant that there is.
    turns = itertools.cycle(itertools.product((True, False), credentials))

    @hypothesis(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        there_is, headers = next(turns)
        # What is wrong with a wrong one stays as it was made.
        if there_is and mode is GenerationMode.POSITIVE:
            _about_a_tenant_that_there_is(case)
        case.call_and_validate(headers=dict(headers), checks=asked, timeout=20)

    try:
        ask()
    except Unsatisfiable:
        # A route without input has no wrong one.
        assert mode is GenerationMode.NEGATIVE
        assert method == "get"


def _about_a_tenant_that_there_is(case: schemathesis.Case[Any]) -> None:
    """Made-up names end at "no such tenant"."""
    if "tenantId" in case.path_parameters:
        case.path_parameters["tenantId"] = TENANT
    for item in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(item, dict) and "tenantId" in item:
            item |= {"tenantId": TENANT} | ({"usageType": "DEEP"} if "usageType" in item else {})


def test_the_document_declares_every_kind_of_credentials(document: Any, credentials: list[Mapping[str, str]]) -> None:
    assert len(document.raw_schema["components"]["securitySchemes"]) == len(credentials)
