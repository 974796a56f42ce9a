"""Envelopes and keys: what opens, what never does, and what nobody is shown."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.secrets import KEYS, shown_with_locals
from zotify_async_crud import schemas
from zotify_async_crud._secrets import SecretValue
from zotify_async_crud.encryption import (
    FIRST_CHARACTER,
    LAST_CHARACTER,
    TokenKeyring,
    generate_key,
    is_sealed,
    key_id,
)
from zotify_async_crud.errors import InvalidValue, LoginRequired

NEW, OLD, _ = KEYS
RING: Final = TokenKeyring(NEW, OLD)
PLACE: Final = "a_table.a_column.1"
SECRET: Final = "canary-token"
ENVELOPE: Final = RING.seal(SECRET, PLACE)

TEXTS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def edited(envelope: str) -> st.SearchStrategy[str]:
    """Return envelopes that are cut, doubled, shuffled, or have other characters in some places."""
    characters = st.characters(min_codepoint=FIRST_CHARACTER, max_codepoint=LAST_CHARACTER)
    places = st.integers(0, len(envelope))
    changes = st.dictionaries(
        st.integers(0, len(envelope) - 1), characters | st.characters(codec="ascii"), max_size=20
    )
    return (
        st.tuples(places, places).map(lambda ends: envelope[min(ends) : max(ends)])
        | st.permutations(envelope).map("".join)
        | characters.map(lambda character: envelope + character)
        | changes.map(
            lambda new: "".join(new.get(place, each) for place, each in enumerate(envelope))
        )
    ).filter(lambda text: text != envelope)


def test_a_part_of_a_secret_is_one() -> None:
    """What shortens a long value before it shows it shows nothing of it."""
    secret = SecretValue(SECRET)

    assert SECRET not in repr([secret[:3], secret[0], secret[-3:]])
    assert repr(secret[:3]) == repr(secret)
    assert (str(secret[:3]), f"{secret}") == (SECRET[:3], SECRET)


@given(value=TEXTS)
def test_what_is_sealed_opens_as_it_was(value: str) -> None:
    """By the key that sealed it, whether that is the current one or an older one."""
    assert RING.open(RING.seal(value, PLACE), PLACE) == value
    assert RING.open(TokenKeyring(OLD).seal(value, PLACE), PLACE) == value


@given(text=edited(ENVELOPE))
def test_an_envelope_that_was_changed_never_opens(text: str) -> None:
    """However many of its characters; and none is taken for a token in clear."""
    if any(FIRST_CHARACTER <= ord(character) <= LAST_CHARACTER for character in text):
        assert is_sealed(text)
    with pytest.raises(LoginRequired) as refused:
        RING.open(text, PLACE)
    assert SECRET not in str(shown_with_locals(refused.value))


@given(bits=st.integers(0, 8 * len(ENVELOPE) - 1))
def test_no_bit_of_an_envelope_is_free(bits: int) -> None:
    """Format, key, nonce, text and tag are all authenticated."""
    place, bit = divmod(bits, 8)
    flipped = chr(ord(ENVELOPE[place]) ^ (1 << bit))

    with pytest.raises(LoginRequired):
        RING.open(ENVELOPE[:place] + flipped + ENVELOPE[place + 1 :], PLACE)


@given(cut=st.integers(1, len(ENVELOPE)))
def test_what_is_left_of_an_envelope_is_never_a_token_in_clear(cut: int) -> None:
    """From either end."""
    assert is_sealed(ENVELOPE[:cut])
    assert is_sealed(ENVELOPE[-cut:])


def test_an_envelope_opens_at_its_own_place_only() -> None:
    """It is of no use in another column, row or table."""
    with pytest.raises(LoginRequired, match="was changed"):
        RING.open(ENVELOPE, "a_table.another_column.1")


def test_an_old_value_does_not_open_under_another_keys_id() -> None:
    """The id is authenticated with the rest."""
    old = TokenKeyring(OLD).seal(SECRET, PLACE)
    header = RING.seal("", PLACE)[:9]

    with pytest.raises(LoginRequired, match="was changed"):
        RING.open(header + old[9:], PLACE)


def test_a_key_that_is_not_in_the_ring_opens_nothing() -> None:
    """And the error says that it is the key, not the token."""
    with pytest.raises(LoginRequired, match="not in the key ring"):
        TokenKeyring(OLD).open(ENVELOPE, PLACE)


def test_two_envelopes_of_one_value_have_nothing_in_common() -> None:
    """Whoever reads the database can't tell that a token came back."""
    again = RING.seal(SECRET, PLACE)

    assert again[:9] == ENVELOPE[:9]
    assert sum(a == b for a, b in zip(again[9:], ENVELOPE[9:], strict=True)) < len(again) / 4


def test_an_envelope_names_the_key_that_sealed_it() -> None:
    """By the begin of its SHA-256, so that nobody has to think of names."""
    assert key_id(ENVELOPE) == RING.current_id == RING.ids[0]
    assert key_id(TokenKeyring(OLD).seal(SECRET, PLACE)) == RING.ids[1]
    assert key_id(SECRET) is None


def test_a_new_key_is_random_and_has_256_bits() -> None:
    """In base64url without padding, which may be there."""
    key = generate_key()

    assert len(base64.urlsafe_b64decode(key + "=")) == 32
    assert key != generate_key()
    assert TokenKeyring(key + "=").ids == TokenKeyring(key).ids


NO_KEYS: Final = (
    *("", SECRET, OLD[:-1], OLD + "AAAA", OLD[:-1] + "!", f" {OLD}", "ä" * 43),
    *(None, 5, OLD.encode(), [OLD]),
)


@pytest.mark.parametrize("key", NO_KEYS, ids=[str(number) for number in range(len(NO_KEYS))])
def test_what_is_no_key_is_refused_by_its_place_and_not_shown(key: Any) -> None:
    """Nor is any of the other keys."""
    with pytest.raises(InvalidValue, match=r"^current: ") as current:
        TokenKeyring(key, OLD)
    with pytest.raises(InvalidValue, match=r"^older\[1\]: ") as older:
        TokenKeyring(OLD, NEW, key)

    for error in (current.value, older.value):
        shown = str(shown_with_locals(error))
        assert [each for each in (OLD, NEW, OLD[:-1], SECRET) if each in shown] == []


def test_a_key_ring_shows_and_gives_away_no_key() -> None:
    """Its repr has ids, and it cannot be pickled."""
    assert repr(RING) == f"TokenKeyring(ids={RING.ids})"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(RING)


def test_a_secret_is_hidden_wherever_it_stands() -> None:
    """It is a string to whoever uses it, can be copied, and cannot be pickled."""
    secret = SecretValue(SECRET)

    assert secret == SECRET
    assert f"Bearer {secret}" == f"Bearer {SECRET}"
    assert SECRET not in repr([secret, {"token": secret}, (secret,)])
    assert copy.deepcopy([secret]) == [SECRET]
    assert copy.copy(secret) is secret
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps({"token": secret}, protocol)


def test_validated_token_data_cannot_be_pickled() -> None:
    """A cache or a task queue would write the secrets down."""
    data = schemas.SpotifyTokenData(access_token=SECRET, refresh_token=SECRET, expires_in=3600)  # type: ignore[arg-type]

    assert SECRET not in repr(data.model_dump())
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(data)


@pytest.mark.parametrize("envelope", ["\u2801", "\u2801" * 8, "\u2802" * 40])
def test_what_is_left_of_an_envelope_has_no_key(envelope: str) -> None:
    """It is not in clear either."""
    with pytest.raises(LoginRequired):
        key_id(envelope)
