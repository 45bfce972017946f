"""Pseudonyms: the same for ever, only with the key, and enough to know an event that is sent again."""

from __future__ import annotations

import pytest

from metering.pseudonyms import Asked, OtherKey, Pseudonyms, key_id_of, recognised
from metering.ranges import Claim
from meterline_schemas.key import dedup_key, key_hash, parse_key
from meterline_schemas.types import Micros

ONE, OTHER = Pseudonyms(b"k" * 32), Pseudonyms(b"x" * 32)
KEY = dedup_key("worker", "job-1", "PHOTO")
CORRECTED = dedup_key("worker", "job-0", "PHOTO")


def stored(pseudonyms: Pseudonyms, tenant: str | None = "t", hashed: int | None = None) -> dict[bytes, Claim]:
    """A forgotten row, as the exact confirm reads it."""
    name = pseudonyms.of("tenant", "t") if tenant is None else tenant
    claim = Claim(
        1, 0, 5, name, Micros(9), "correction", pseudonyms.of_key(CORRECTED), 77, key_hash(KEY) if hashed is None else hashed
    )
    return {pseudonyms.of_key(KEY): claim}


def test_a_pseudonym_is_the_same_for_ever_and_another_for_another_key_or_kind() -> None:
    assert ONE.of("tenant", "t") == "forgotten:" + ONE.key_id + ":" + ONE.of("tenant", "t")[-40:]
    assert len({ONE.of("tenant", "t"), ONE.of("user", "t"), OTHER.of("tenant", "t"), ONE.of("tenant", "u")}) == 4
    assert key_id_of(ONE.of("tenant", "t")) == ONE.key_id
    assert key_id_of("forgotten:of old") is None
    service, entity, usage_type = parse_key(ONE.of_key(KEY))
    assert (service, usage_type) == ("worker", "PHOTO")
    assert entity == ONE.of_entity(KEY)


def test_keys_that_netstrings_keep_apart_have_pseudonyms_that_differ() -> None:
    assert ONE.of_entity(dedup_key("a", "b-c", "T")) != ONE.of_entity(dedup_key("a-b", "c", "T"))


@pytest.mark.parametrize("length", [31, 32])
def test_a_short_key_is_refused(length: int) -> None:
    if length < 32:
        with pytest.raises(ValueError, match="at least 32"):
            Pseudonyms(b"k" * length)
    else:
        assert Pseudonyms(b"k" * length).key_id


def test_a_forgotten_row_answers_under_the_key_that_asks_with_the_names_that_fit() -> None:
    found = recognised(stored(ONE, None), [Asked(KEY, "t", CORRECTED)], ONE)[KEY]
    assert (found.tenant_id, found.corrects, found.position) == ("t", CORRECTED, (1, 5))


def test_another_tenant_or_corrected_key_stays_another() -> None:
    found = recognised(stored(ONE, None), [Asked(KEY, "u", KEY)], ONE)[KEY]
    assert found.tenant_id == ONE.of("tenant", "t")
    assert found.corrects == ONE.of_key(CORRECTED)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_records_of_a_key_the_one_with_the_right_names_is_known(order: int) -> None:
    asked = [Asked(KEY, "u", CORRECTED), Asked(KEY, "t", KEY)][::order]
    found = recognised(stored(ONE, None), asked, ONE)[KEY]
    assert (found.tenant_id, found.corrects) == ("t", CORRECTED)


def test_a_user_was_forgotten_and_the_tenant_stands_in_plain() -> None:
    assert recognised(stored(ONE), [Asked(KEY, "t", CORRECTED)], ONE)[KEY].tenant_id == "t"


def test_a_key_of_equal_hash_and_other_text_is_not_recognised() -> None:
    other = dedup_key("worker", "job-2", "PHOTO")
    assert other not in recognised(stored(ONE), [Asked(other, "t", b"")], ONE)


@pytest.mark.parametrize("with_key", [OTHER, None])
def test_without_the_right_key_nothing_is_decided(with_key: Pseudonyms | None) -> None:
    with pytest.raises(OtherKey):
        recognised(stored(ONE), [Asked(KEY, "t", CORRECTED)], with_key)


def test_an_event_that_only_looks_forgotten_is_an_event_like_any_other() -> None:
    """Somebody sent a pseudonym as an id: its stored key has the very hash that it was admitted with."""
    forged = stored(OTHER, hashed=key_hash(OTHER.of_key(KEY)))
    assert recognised(forged, [Asked(KEY, "t", CORRECTED)], ONE) == forged
    assert recognised(forged, [Asked(KEY, "t", CORRECTED)], None) == forged
