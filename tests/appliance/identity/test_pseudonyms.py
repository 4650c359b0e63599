"""Pseudonyms join one patient's studies, never two patients', and tell nothing without the key."""

from __future__ import annotations

import stat
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance.identity.escrow import seal, unseal
from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import (
    PLACEHOLDERS,
    Pseudonyms,
    ensure_site_key,
    is_placeholder,
    load_site_key,
    normalise,
)
from core.errors import IdentityError

KEY = bytes(range(32))
names = Pseudonyms(KEY)
identifiers = st.text(max_size=64)
uids = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)


@given(identifiers)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(identifiers, st.sampled_from([" {} ", "{}\0", "\t{}", "{}\u200b", "{}\u3000"]))
def test_padding_does_not_make_another_patient(text: str, padded: str) -> None:
    assert names.patient("", padded.format(text)) == names.patient("", text)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 -]{0,20}", fullmatch=True))
def test_case_and_width_do_not_make_another_patient(text: str) -> None:
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    assert names.patient("", text.upper()) == names.patient("", text.lower()) == names.patient("", wide)


@given(identifiers, identifiers, identifiers, identifiers)
def test_different_patients_have_different_pseudonyms(i1: str, p1: str, i2: str, p2: str) -> None:
    assume((normalise(i1), normalise(p1)) != (normalise(i2), normalise(p2)))
    one, other = names.patient(i1, p1), names.patient(i2, p2)
    assert one is None or one != other


@given(uids)
def test_kinds_and_sites_never_share_a_pseudonym(uid: str) -> None:
    elsewhere = Pseudonyms(bytes(32))
    seen = [names.study(uid), names.series(uid), names.instance(uid), names.patient("", uid), elsewhere.study(uid)]
    assert len(set(seen)) == len(seen)
    assert names.study(uid) == names.study(uid + "\0") == Pseudonyms(KEY).study(uid)


@given(uids)
def test_a_pseudonym_fits_the_wire_and_shows_nothing(uid: str) -> None:
    assert len(names.study(uid)) == 32
    assert set(names.study(uid)) <= set("0123456789abcdef")


def test_the_value_is_fixed_for_ever() -> None:
    """A change here would cut every registry off from its past: it needs a new domain and a migration."""
    assert names.study("1.2.840.113619.2.1") == "22996b9f43214d3de5fca510825d2770"
    assert names.patient("HOSP", "AB 12") == "e81d97e9a36d76775df077d3c3533312"


@pytest.mark.parametrize(
    "text",
    ["", " ", "\0", "0", "00", "000000", "UNKNOWN", "unknown", "Anonymous", "ANONYMIZED", "NA", "N/A", "n.a.", "none",
     "NULL", "---", "?", "^^", "...", "XXXX", "99999999", "1111", "No ID", "PATIENT ID", "test", "Ｕｎｋｎｏｗｎ",
     "UNKNOWN\u200b", "TEMP", "12345678"],
)  # fmt: skip
def test_a_placeholder_has_no_pseudonym(text: str) -> None:
    assert is_placeholder(text)
    assert names.patient("HOSP", text) is None


@pytest.mark.parametrize(
    "text", ["1", "7", "42", "0001", "100", "A0001", "ANON0017", "test-3", "K-00000", "aaa", "Ж12"]
)
def test_a_real_looking_id_has_one(text: str) -> None:
    assert names.patient("", text) is not None


def test_leading_zeros_and_punctuation_tell_patients_apart() -> None:
    assert len({names.patient("", p) for p in ("123", "0123", "12-3", "12 3", "12.3")}) == 5


def test_placeholders_are_written_in_the_form_they_are_compared_in() -> None:
    for word in PLACEHOLDERS:
        assert word == normalise(word)
        assert all(unicodedata.category(c)[0] in "LN" for c in word)


def test_an_empty_uid_is_an_error_not_a_shared_pseudonym() -> None:
    with pytest.raises(IdentityError):
        names.study("\0")


def test_the_site_key_is_made_once_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    identity = IdentityFolder(tmp_path / "identity")
    first = ensure_site_key(identity)
    assert ensure_site_key(identity) == first == load_site_key(identity)
    assert stat.S_IMODE(identity.site_key.stat().st_mode) == 0o600
    with pytest.raises(IdentityError, match="another site key"):
        ensure_site_key(identity, imported=bytes(32))
    identity.site_key.chmod(0o640)
    with pytest.raises(IdentityError, match="0640"):
        load_site_key(identity)


def test_the_site_key_survives_the_box_in_escrow(tmp_path: Path) -> None:
    sealed = seal(KEY, "kigali", "correct horse battery staple")
    assert KEY.hex().encode() not in sealed
    assert unseal(sealed, "kigali", "correct horse battery staple") == KEY
    other = IdentityFolder(tmp_path / "second")
    assert ensure_site_key(other, imported=unseal(sealed, "kigali", "correct horse battery staple")) == KEY


def test_escrow_refuses_a_wrong_phrase_another_site_and_a_changed_file() -> None:
    sealed = seal(KEY, "kigali", "correct horse battery staple")
    with pytest.raises(IdentityError, match="passphrase"):
        unseal(sealed, "kigali", "correct horse battery stable")
    with pytest.raises(IdentityError, match="belongs to"):
        unseal(sealed, "lusaka", "correct horse battery staple")
    renamed = sealed.replace(b'"kigali"', b'"lusaka"')
    with pytest.raises(IdentityError):
        unseal(renamed, "lusaka", "correct horse battery staple")
    with pytest.raises(IdentityError):
        unseal(b"{}", "kigali", "x")
    with pytest.raises(IdentityError, match="fewer than"):
        seal(KEY, "kigali", "short")


def test_the_key_is_not_in_the_representation() -> None:
    assert KEY.hex() not in repr(names)
