"""Pseudonyms: what the registry and the logs know instead of patients, studies and series.

HMAC-SHA256 (RFC 2104) with the site's key, cut to 128 bits, 32 lower-case hex digits. Without the key nobody can try
out PatientIDs, and two sites' pseudonyms of one patient can't be joined. Every kind has its own domain, and every part
is preceded by its length, so that no two different inputs are ever the same bytes.

A PatientID is normalised before, so that one patient stays one patient when a clerk types differently:

1. Unicode NFKC (full-width digits become digits), then case folding, repeated until nothing changes;
2. control and invisible format characters (Unicode Cc, Cf) become white space;
3. white space at the ends goes, runs of it inside become one space.

Nothing else: leading zeros and punctuation stay, since "0123" and "123" may be two people, and joining two people is
worse than missing that two studies are of one.

Blank and placeholder ids have no pseudonym at all (`None`): hundreds of people called UNKNOWN must never become one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata

from appliance.identity.keys import FOLDER_MODE, KEY_MODE, IdentityFolder, read_private
from core import durable
from core.errors import IdentityError

SITE_KEY_BYTES = 32
_DOMAIN = b"onescan/pseudonym/v1/"

_WORDS = """
unknown unk unidentified unnamed noname nameless unbekannt inconnu desconocido desconhecido sconosciuto
anonymous anonymized anonymised anonym anon anonymouspatient deidentified deid pseudonym
na nil none null nan blank empty missing undefined notavailable notapplicable notknown notprovided noid nopid
patient patientid pid id mrn patid default dummy sample example test testpatient testing phantom qa qc
temp temporary tmp emergency emergencypatient trauma er johndoe janedoe
12345678 123456789 1234567890
"""
PLACEHOLDERS = frozenset(_WORDS.split())
"""Compared after normalisation and without punctuation and spaces: "N/A", "n.a." and "NA" are one."""
_REPEATED = 4  # from this length on, one character repeated ("9999", "xxxx") is a placeholder


class Pseudonyms:
    """Pseudonyms of one site. The key stays inside: it is neither shown nor logged."""

    def __init__(self, site_key: bytes) -> None:
        if len(site_key) != SITE_KEY_BYTES:
            raise IdentityError(f"a site key has {SITE_KEY_BYTES} bytes, this one {len(site_key)}")
        self._key = site_key

    def study(self, uid: str) -> str:
        """32 hex digits for a Study Instance UID; also what logs say instead of it."""
        return self._of("study", _uid(uid))

    def series(self, uid: str) -> str:
        """32 hex digits for a Series Instance UID."""
        return self._of("series", _uid(uid))

    def instance(self, uid: str) -> str:
        """32 hex digits for a SOP Instance UID: for logs, never sent."""
        return self._of("instance", _uid(uid))

    def patient(self, issuer: str, patient_id: str) -> str | None:
        """32 hex digits for Issuer of Patient ID + Patient ID; None where the id is blank or a placeholder.

        A blank issuer is a namespace of its own: most scanners send none.
        """
        if is_placeholder(patient_id):
            return None
        return self._of("patient", normalise(issuer), normalise(patient_id))

    def check_value(self) -> str:
        """8 hex digits by which people can compare two boxes' site keys without showing them."""
        return self._of("check")[:8]

    def _of(self, kind: str, *parts: str) -> str:
        mac = hmac.new(self._key, _DOMAIN + kind.encode() + b"\0", hashlib.sha256)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            mac.update(len(encoded).to_bytes(4, "big") + encoded)
        return mac.hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Pseudonyms(check {self.check_value()})"


def normalise(identifier: str) -> str:
    """The one form of a PatientID or issuer: rules 1 to 3 above. Normalising twice changes nothing."""
    before, text = None, identifier
    while text != before:
        before = text
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)
        text = " ".join(text.split())
    return text


def is_placeholder(patient_id: str) -> bool:
    """True for an id that many people share.

    Blank; nothing but punctuation or zeros; one character four times or more; or a word of `PLACEHOLDERS`.
    """
    core = "".join(c for c in normalise(patient_id) if unicodedata.category(c)[0] in "LNM")
    if not core.strip("0"):
        return True
    if len(core) >= _REPEATED and len(set(core)) == 1:
        return True
    return core in PLACEHOLDERS


def ensure_site_key(identity: IdentityFolder, imported: bytes | None = None) -> bytes:
    """The site's key; made (or taken from `imported`) if there is none. IdentityError if another one is there."""
    durable.make_folder(identity.folder, FOLDER_MODE)
    if not identity.site_key.exists():
        fresh = imported if imported is not None else secrets.token_bytes(SITE_KEY_BYTES)
        Pseudonyms(fresh)  # right length, before anything is written
        durable.write_bytes(identity.site_key, fresh.hex().encode() + b"\n", KEY_MODE)
    key = load_site_key(identity)
    if imported is not None and not hmac.compare_digest(key, imported):
        raise IdentityError(
            f"{identity.site_key} holds another site key than the one to be imported",
            remedy="Pseudonyms made with it would not match any more. Keep the old key, or provision anew.",
        )
    return key


def load_site_key(identity: IdentityFolder) -> bytes:
    """The 32 bytes of the site's key."""
    try:
        key = bytes.fromhex(read_private(identity.site_key).decode("ascii").strip())
    except ValueError as error:
        raise IdentityError(f"{identity.site_key} is not a site key") from error
    Pseudonyms(key)
    return key


def _uid(uid: str) -> str:
    """A UID without its padding (PS3.5 9.1: a trailing NUL; some senders pad with spaces)."""
    bare = uid.strip("\0 ")
    if not bare:
        raise IdentityError("an empty UID has no pseudonym")
    return bare
