"""The steps that turn a computer into an appliance. Each is done once, durably, and known to be done by what it left.

    folders       state folder and what is in it
    device key    made here, never leaves
    registry CA   fetched, and its fingerprint compared with the plan
    request       kept: every try sends the same bytes
    certificate   against the single-use token
    site key      made here, or taken from the hospital's escrow
    update trust  root.json of the model repository, compared with the plan
    settings      appliance.yaml, last: while it is missing the box is not provisioned

Interrupted anywhere, run again: finished steps are kept, the next one goes on. Nothing is asked for that is known.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance import config
from appliance.identity import keys, pseudonyms
from appliance.identity.keys import IdentityFolder
from core import durable
from core.errors import EnrolmentRefused, IdentityError, OneScanError
from provisioning.enrol import EstClient, RegistryUnreachable, own_certificate
from provisioning.site import SitePlan

Done = Literal["made", "kept", "changed"]
CONFIG_NAME = "appliance.yaml"
_FOLDERS = ("spool", "objects", "bundles", "tuf", "run")
_LARGEST_ROOT = 512_000  # bytes; python-tuf's own bound
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Step:
    """One thing to do. run: does it, or finds it done."""

    title: str
    run: Callable[[], Done]


class Installation:
    """One plan on its way into one state folder.

    token: asked for only when a certificate is needed. site_key: what escrow gave, None to make one. renew: take a new
    certificate already in the last third of the old one's life.
    """

    def __init__(
        self,
        plan: SitePlan,
        state: Path,
        config_file: Path,
        token: Callable[[], str],
        now: Callable[[], dt.datetime],
        site_key: bytes | None = None,
        renew: bool = False,
    ) -> None:
        self.state = state.absolute()
        self.config_file = config_file.absolute()
        self.identity = IdentityFolder(self.state / "identity")
        self._plan = plan
        self._token = token
        self._now = now
        self._site_key = site_key
        self._renew = renew
        self._est = EstClient(plan.registry.enrol_url, plan.registry.ca_sha256)

    @property
    def steps(self) -> tuple[Step, ...]:
        """In order; each needs the ones before it."""
        return (
            Step("folders", self._folders),
            Step("device key", self._device_key),
            Step("registry CA", self._registry_ca),
            Step("request", self._request),
            Step("certificate", self._certificate),
            Step("site key", self._site_key_step),
            Step("update trust", self._update_trust),
            Step("settings", self._settings),
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One provisioning of this folder at a time."""
        durable.make_folder(self.state)
        with (self.state / ".provisioning").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise IdentityError(
                    f"another onescan-provision works on {self.state}", remedy="Wait until it has ended."
                ) from error
            yield

    def _folders(self) -> Done:
        there = all((self.state / name).is_dir() for name in _FOLDERS)
        for name in _FOLDERS:
            durable.make_folder(self.state / name)
        durable.make_folder(self.identity.folder, keys.FOLDER_MODE)
        durable.sweep(self.identity.folder)
        durable.sweep(self.state / "tuf", "root.json")  # the roles may be running: theirs are left alone
        durable.sweep(self.config_file.parent, self.config_file.name)
        return "kept" if there else "made"

    def _device_key(self) -> Done:
        there = self.identity.device_key.exists()
        keys.ensure_device_key(self.identity)
        return "kept" if there else "made"

    def _registry_ca(self) -> Done:
        if self.identity.ca.exists():
            kept = keys.fingerprint(keys.load_certificate(self.identity.ca))
            if kept != self._plan.registry.ca_sha256:
                raise IdentityError(
                    f"this box belongs to a registry with CA {kept[:16]}..., the plan names another one",
                    remedy="To move a box to another registry, provision it into a fresh state folder.",
                )
            return "kept"
        keys.store_ca(self.identity, self._est.fetch_ca())
        return "made"

    def _request(self) -> Done:
        before = self.identity.request.read_bytes() if self.identity.request.exists() else None
        after = keys.ensure_request(self.identity, self._plan.site, self._plan.device)
        return "kept" if before == after else "made"

    def _certificate(self) -> Done:
        key, ca = keys.load_device_key(self.identity), keys.load_certificate(self.identity.ca)
        site, device = self._plan.site, self._plan.device
        there = self.identity.certificate.exists()
        if there:
            certificate = keys.load_certificate(self.identity.certificate)
            if keys.subject_name(certificate) != keys.common_name(site, device):
                raise IdentityError(
                    f"this box is enrolled as {keys.subject_name(certificate)}, the plan is for {site}.{device}",
                    remedy="Take the right plan, or provision this box into a fresh state folder.",
                )
            due = self._renew and keys.renewal_due(certificate, self._now())
            if keys.days_left(certificate, self._now()) > 0 and not due:
                keys.check_certificate(certificate, key, ca, keys.common_name(site, device), self._now())
                return "kept"
        token = self._token()
        if not token:
            raise EnrolmentRefused(
                "the enrolment token is empty", remedy="Ask the central team for one: `onescan-registry token`."
            )
        answered = self._est.enrol(ca, self.identity.request.read_bytes(), site, device, token)
        keys.store_certificate(self.identity, own_certificate(answered, key, ca, site, device, self._now()))
        return "changed" if there else "made"

    def _site_key_step(self) -> Done:
        there = self.identity.site_key.exists()
        pseudonyms.ensure_site_key(self.identity, self._site_key)
        return "kept" if there else "made"

    def _update_trust(self) -> Done:
        place = self.state / "tuf" / "root.json"
        planned = self._plan.registry.tuf_root
        if place.exists() and planned.file is None:
            _check_root(place.read_bytes(), planned.sha256, str(place))
            return "kept"
        if planned.file is not None:
            content, source = _read(planned.file), str(planned.file)
        else:
            source = f"{self._plan.registry.tuf_url}/metadata/1.root.json"
            content = _get(source, self.identity)
        _check_root(content, planned.sha256, source)
        if place.exists():
            if place.read_bytes() != content:
                raise IdentityError(
                    f"{place} is another root of trust than the plan's",
                    remedy="To move a box to another model repository, provision it into a fresh state folder.",
                )
            return "kept"
        durable.write_bytes(place, content)
        return "made"

    def _settings(self) -> Done:
        text = config.dump(self._plan.appliance(self.state))
        config.parse(text, str(self.config_file))
        there = self.config_file.exists()
        if there and self.config_file.read_text(encoding="utf-8") == text:
            return "kept"
        durable.make_folder(self.config_file.parent)
        durable.write_text(self.config_file, text)
        return "changed" if there else "made"


def _check_root(content: bytes, sha256: str | None, source: str) -> None:
    """The digest that the plan names, and TUF root metadata at all."""
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise IdentityError(
            f"the root of trust at {source} is not the one in the plan: expected {sha256}, got {digest}",
            remedy="Compare registry.tuf_root.sha256 with the central team. If it is right, don't go on.",
        )
    try:
        signed = json.loads(content)["signed"]
        is_root = signed["_type"] == "root"
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityError(f"{source} is not TUF metadata") from error
    if not is_root:
        raise IdentityError(f"{source} is TUF metadata, but not of the role root")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        remedy = "The plan's registry.tuf_root.file names it, relative to the plan."
        raise IdentityError(f"can't read {path}: {error.strerror}", remedy=remedy) from error


def _get(url: str, identity: IdentityFolder) -> bytes:
    """The root of trust over the network: whoever answers, the digest in the plan decides."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=str(identity.ca))
    try:
        with _opener(url, context).open(url, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(_LARGEST_ROOT + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise RegistryUnreachable(
            f"can't fetch {url}: {error}", remedy="Check registry.tuf_url in the plan, or bring root.json as a file."
        ) from error
    if len(content) > _LARGEST_ROOT:
        raise IdentityError(f"{url} is too large for a root of trust")
    return content


def _opener(url: str, context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """Through the site's proxy, if it has one; never for this machine itself."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def carry_out(installation: Installation, tell: Callable[[str, Done | None], None]) -> list[tuple[str, Done]]:
    """All steps in order. `tell` is given each step's title before (None) and after it (what was done)."""
    done: list[tuple[str, Done]] = []
    with installation.locked():
        for step in installation.steps:
            tell(step.title, None)
            try:
                result = step.run()
            except OneScanError as error:
                error.args = (f"step '{step.title}': {error}",)
                raise
            tell(step.title, result)
            done.append((step.title, result))
    return done
