"""The site key outside the box: for the hospital's safe, and for the site's next device.

A JSON file, encrypted with a passphrase: scrypt (RFC 7914, N = 2^15, r = 8, p = 1) and AES-256-GCM over the key, with
the site's name as associated data, so that a file can't be taken for another site's. Whoever has both the file and the
passphrase can find out who the flagged patients are; the registry must never have either.
"""

from __future__ import annotations

import base64
import json
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from appliance.identity.pseudonyms import Pseudonyms
from core.errors import IdentityError

FORMAT = "onescan site key 1"
MIN_PASSPHRASE = 12  # characters
_N, _R, _P = 1 << 15, 8, 1


def seal(site_key: bytes, site: str, passphrase: str) -> bytes:
    """The encrypted file for `site`. IdentityError if the passphrase is too short to be one."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise IdentityError(
            f"the passphrase has fewer than {MIN_PASSPHRASE} characters",
            remedy="Take five or more random words, and keep them apart from the file.",
        )
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, site_key, _bound_to(site))
    fields = {
        "format": FORMAT,
        "site": site,
        "check": Pseudonyms(site_key).check_value(),
        "salt": base64.b64encode(salt).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "sealed": base64.b64encode(sealed).decode(),
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def unseal(content: bytes, site: str, passphrase: str) -> bytes:
    """The site key out of an escrow file. IdentityError: not such a file, another site's, or a wrong passphrase."""
    try:
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            raise IdentityError(f"this is not a '{FORMAT}' file")
        salt, nonce, sealed = (base64.b64decode(fields[name]) for name in ("salt", "nonce", "sealed"))
        owner = fields["site"]
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityError("this is not an escrow file of a site key") from error
    if owner != site:
        raise IdentityError(f"this escrow file belongs to site '{owner}', not to '{site}'")
    try:
        return AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed, _bound_to(site))
    except InvalidTag as error:
        raise IdentityError(
            "the passphrase does not open this escrow file (or the file was changed)",
            remedy="Check the passphrase with the person who keeps it for the hospital.",
        ) from error


def _derive(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase.encode())


def _bound_to(site: str) -> bytes:
    return f"{FORMAT}/{site}".encode()
