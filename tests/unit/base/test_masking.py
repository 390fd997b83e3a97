"""Secrets that were learned are in no text any more; everything else stays as it was."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.masking import MASK, SHORTEST, Secrets, is_secret_name

values = st.text(min_size=SHORTEST, max_size=20).filter(lambda text: MASK[0] not in text)


@given(secrets=st.lists(values, max_size=8), text=st.text(max_size=200), data=st.data())
def test_no_learned_value_is_left_in_a_text(secrets, text, data):
    known = Secrets()
    known.learn(*secrets)
    for secret in secrets:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + secret + text[at:]
    masked = known.mask(text)
    assert not [secret for secret in secrets if secret in masked and secret not in MASK]


@given(text=st.text(max_size=200))
def test_text_without_a_secret_stays_as_it_is(text):
    known = Secrets()
    known.learn("never in there: \x00\x01\x02\x03")
    assert known.mask(text) == text


@pytest.mark.parametrize("form", [json.dumps, repr, lambda value: quote(value, safe="")])
def test_a_secret_is_known_in_the_ways_in_which_programs_print_it(form):
    known = Secrets()
    secret = 'pä"ss\\wörd/1'
    known.learn(secret)
    assert form(secret).strip("\"'") not in known.mask(f"login failed: {form(secret)}")


def test_of_a_text_of_several_words_the_secret_word_is_known_alone():
    known = Secrets()
    known.learn("CHAP user hunter2hunter2")
    known.learn("[client.cinder]\n\tkey = AQDkO0pnAAAAABAAhunter==\n\tcaps mon = profile")
    masked = known.mask("user of CHAP: hunter2hunter2 with key AQDkO0pnAAAAABAAhunter==")
    assert masked == f"user of CHAP: {MASK} with key {MASK}"


def test_a_longer_secret_is_not_shown_by_a_shorter_one_that_it_begins_with():
    known = Secrets()
    known.learn("hunter2", "hunter2-and-more")
    assert known.mask("<hunter2-and-more><hunter2>") == f"<{MASK}><{MASK}>"


def test_words_that_stand_in_every_log_are_not_masked():
    known = Secrets()
    known.learn("admin", "", "CHAP")
    assert known.mask("admin uses CHAP") == "admin uses CHAP"


def test_values_under_the_name_of_a_secret_are_learned_wherever_they_are():
    known = Secrets()
    known.learn_named(
        {
            "target_iqn": "iqn.2010-10.org:volume",
            "auth_password": "first-secret",
            "paths": [{"discovery_auth_password": "second-secret", "lun": 1}],
            "keyring": {"client": ["third-secret"]},
        }
    )
    masked = known.mask("iqn.2010-10.org:volume first-secret second-secret third-secret")
    assert masked == f"iqn.2010-10.org:volume {MASK} {MASK} {MASK}"


@pytest.mark.parametrize(
    "name",
    [
        "san_password",
        "auth_password",
        "provider_auth",
        "PURE_TARGET_CHAP_SECRET",
        "keyring",
        "api_key",
        "privateKey",
        "dhchap_key",
        "san_private_key",
        "passphrase",
        "auth_token",
    ],
)
def test_names_of_secrets_as_drivers_use_them_are_known(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["target_iqn", "auth_method", "auth_username", "provider_id", "multipath", "host"]
)
def test_other_names_are_not_taken_for_secrets(name):
    assert not is_secret_name(name)


def test_what_was_not_seen_for_longest_is_forgotten_first_but_never_the_configuration():
    known = Secrets(limit=3)
    known.learn("configured", keep=True)
    known.learn("oldest-value", "seen-again-1")
    known.learn("seen-again-1")
    known.learn("oldest-value")
    known.learn("newest-value")
    masked = known.mask("configured oldest-value seen-again-1 newest-value")
    assert masked == f"{MASK} {MASK} seen-again-1 {MASK}"


def test_the_limit_holds_even_when_the_configuration_alone_exceeds_it():
    known = Secrets(limit=1)
    known.learn("configured-1", "configured-2", keep=True)
    assert known.mask("configured-1 configured-2") == f"{MASK} {MASK}"


def test_threads_that_learn_while_others_mask_lose_nothing():
    known = Secrets()

    def work(worker: int) -> list[str]:
        masked = []
        for number in range(200):
            secret = f"secret-{worker}-{number}-end"
            known.learn(secret)
            masked.append(known.mask(f"<{secret}>"))
        return masked

    with ThreadPoolExecutor(8) as pool:
        assert {text for texts in pool.map(work, range(8)) for text in texts} == {f"<{MASK}>"}
