"""Secrets at rest: bound to their place, found out when changed, and open to older keys until they are rotated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from runtime.keyring import Keyring, keyring
from runtime.sealing import NONCE_BYTES, Unopenable, key_ids, seal, unseal
from runtime.settings import Settings

PLACE = ("tnt_1", "sec_1")


def keyring_of(*secrets: str) -> Keyring:
    found = keyring(Settings(secret_encrypt_key=SecretStr(",".join(secrets))))
    assert found is not None
    return found


OLD = keyring_of("the older of two secrets")
BOTH = keyring_of("the newer of two secrets", "the older of two secrets")
NEW = keyring_of("the newer of two secrets")


@given(plaintext=st.binary(max_size=200), place=st.lists(st.text(max_size=20), max_size=3))
def test_what_was_sealed_opens_in_its_place(plaintext: bytes, place: list[str]) -> None:
    assert unseal(NEW, "p", seal(NEW, "p", plaintext, place), place) == plaintext


@given(
    here=st.lists(st.text(alphabet="ab:,1", max_size=4), max_size=3),
    there=st.lists(st.text(alphabet="ab:,1", max_size=4), max_size=3),
)
def test_it_opens_in_no_other_place_whatever_the_ids_hold(here: list[str], there: list[str]) -> None:
    sealed = seal(NEW, "p", b"x", here)
    if here != there:
        with pytest.raises(Unopenable):
            unseal(NEW, "p", sealed, there)


def test_it_opens_under_no_other_purpose_and_not_when_a_bit_was_changed() -> None:
    sealed = seal(NEW, "p", b"secret", PLACE)
    with pytest.raises(Unopenable):
        unseal(NEW, "q", sealed, PLACE)
    for changed in (
        replace(sealed, ciphertext=sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])),
        replace(sealed, nonce=bytes([sealed.nonce[0] ^ 1]) + sealed.nonce[1:]),
    ):
        with pytest.raises(Unopenable):
            unseal(NEW, "p", changed, PLACE)


def test_a_rotated_keyring_opens_what_is_older_and_seals_with_the_newest() -> None:
    old = seal(OLD, "p", b"secret", PLACE)
    assert unseal(BOTH, "p", old, PLACE) == b"secret"
    assert seal(BOTH, "p", b"secret", PLACE).key_id == key_ids(NEW, "p")[0] != old.key_id
    with pytest.raises(Unopenable, match="METERLINE_SECRET_ENCRYPT_KEY"):
        unseal(NEW, "p", old, PLACE)


def test_the_same_secret_is_never_sealed_alike_twice() -> None:
    sealed = [seal(NEW, "p", b"secret", PLACE) for _ in range(100)]
    assert len({one.nonce for one in sealed}) == len({one.ciphertext for one in sealed}) == 100
    assert all(len(one.nonce) == NONCE_BYTES for one in sealed)
