"""What texts should not hold is found, nothing else is, and what looks like a secret is shown nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from suspicious import DAMAGE, INSIDE, SECRETS

from preftune.checking.texts import AROUND, excerpt, found_in
from preftune.masking import HIDDEN, KEPT, mask, secrets_in

FINE = [
    "Déjà vu, naïve café, “quotes”, 5 £, Ân, Ça va — très bien.",
    "NÃO, São Paulo; 日本語; привет; 😀👍🏽; e\u200dmoji",
    r"\nabla f = \nu, and \[x < y\] & z",
    "for (i = 0; i < n; i++) { a[i] = b & c; }  <div class='x'>&</div>",
    "See [1] and https://example.org/a:b@c. The password is secret; a key: value pair; token = next()",
    "sk-learn, ghp, hf_hub, one\ttab\r\nand a line",
]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_under_its_name(kind: str) -> None:
    for text in DAMAGE[kind]:
        assert kind in {name for name, _, _ in found_in(text)}, text


@pytest.mark.parametrize("text", FINE)
def test_a_text_that_is_fine_raises_nothing(text: str) -> None:
    assert list(found_in(text)) == []


@pytest.mark.parametrize("kind", SECRETS)
@tried(30)
@given(before=st.text("ab .\n", max_size=60), after=st.text("ab .\n", max_size=60))
def test_a_secret_is_found_wherever_it_stands_and_never_shown(kind: str, before: str, after: str) -> None:
    secret = SECRETS[kind]
    text = f"{before} {secret} {after}"
    assert (kind, len(before) + 1, len(before) + 1 + len(secret)) in set(secrets_in(text))
    assert mask(text) == f"{before} {secret[:KEPT]}{HIDDEN} {after}"
    for start in range(0, len(text), 7):  # a part that begins or ends inside of it
        for part in (mask(text, start), mask(text, 0, start)):
            assert secret[KEPT : KEPT + 6] not in part and secret[-6:] not in part


@pytest.mark.parametrize("kind", INSIDE)
def test_of_a_password_nothing_is_shown_but_what_gives_it_away(kind: str) -> None:
    before, secret, after = INSIDE[kind]
    assert [found.kind for found in secrets_in(before + secret + after)] == [kind]
    masked = mask(before + secret + after)
    assert masked.startswith(before) and masked.endswith(after) and secret[3:] not in masked


@given(text=st.text(max_size=80))
def test_a_text_without_a_secret_is_shown_as_it_is(text: str) -> None:
    if not list(secrets_in(text)):
        assert mask(text) == text


@given(before=st.text(max_size=200), after=st.text(max_size=200))
def test_an_excerpt_is_one_short_line_that_holds_what_was_found(before: str, after: str) -> None:
    shown = excerpt(f"{before} needle {after}", len(before) + 1, len(before) + 7)
    assert "needle" in shown and "\n" not in shown and "\x1b" not in shown
    assert len(shown) <= 8 * (2 * AROUND + 10)  # a character may be shown by its number


@pytest.mark.parametrize("name", ["password", "PASSWD", "PassWord", "Api_Key", "aPI-kEY", "SECRET-key", "Access_Token"])
def test_a_name_before_a_secret_is_known_in_any_case(name: str) -> None:
    assert [found.kind for found in secrets_in(f"so: {name} = hunter22x9, done")] == ["password after its name"]
    assert not list(secrets_in(f"hunter22x9 is no {name}")), "nothing stands behind the name"
