"""The site plan: what the hospital, its network and the central team agreed on, in one file without secrets."""

from __future__ import annotations

import re
import zoneinfo
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from appliance.config import (
    AETitle,
    AnalyserConfig,
    ApplianceConfig,
    ConsoleConfig,
    PacsConfig,
    Port,
    ReceiverConfig,
    ReconciliationConfig,
    RegistryConfig,
)
from core.errors import ConfigError
from core.finding import Cancer, Mode
from core.wire import Slug


def _bare_hex(value: object) -> object:
    """Fingerprints are printed in several ways: AA:BB..., with spaces, in capitals."""
    return value.replace(":", "").replace(" ", "").lower() if isinstance(value, str) else value


def _slug(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise ValueError(f"'{value}' is no name here: small letters, digits and hyphens only, at most 63, e.g. ct-1")
    return value


def _known_zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError("not a time zone of the IANA database, such as Africa/Kigali")
    return name


def _https(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError("must begin with https://")
    return url.rstrip("/")


def _http(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("must begin with https:// or http://")
    return url.rstrip("/")


Name = Annotated[Slug, BeforeValidator(_slug)]
Sha256 = Annotated[str, BeforeValidator(_bare_hex), Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scanner(_Section):
    """A CT scanner that will push studies."""

    ae_title: AETitle = Field(description="its own AE title, as it calls us")
    address: str = Field("", description="its IP address; used to tell which of our addresses it will reach")


class TufRoot(_Section):
    """The root of trust for model updates: a file beside the plan, or the digest of what the registry serves."""

    file: Path | None = Field(None, description="root.json; relative to the plan's folder")
    sha256: Sha256 | None = Field(None, description="SHA-256 of <tuf_url>/metadata/1.root.json")

    @model_validator(mode="after")
    def _one_of_both(self) -> TufRoot:
        if self.file is None and self.sha256 is None:
            raise ValueError("needs file or sha256: a root of trust that nobody vouches for is none")
        return self


class RegistryPlan(_Section):
    """The central registry and how to know that it is the right one."""

    enrol_url: Annotated[str, AfterValidator(_https)] = Field(description="base URL of its enrolment server")
    ca_sha256: Sha256 = Field(description="SHA-256 fingerprint of its CA certificate, by a way other than this network")
    mqtt_host: str = Field(min_length=1)
    mqtt_port: Port = 8883
    tuf_url: Annotated[str, AfterValidator(_http)] = Field(description="base URL of the model repository")
    tuf_root: TufRoot


class SitePlan(_Section):
    """One appliance at one site."""

    site: Name = Field(description="the hospital, as the registry knows it; the same for all of its devices")
    device: Name = Field(description="this box, unique within the site")
    institution: str = Field("", description="the hospital's name for result objects; never leaves the hospital")
    timezone: Annotated[str, AfterValidator(_known_zone)] = Field("UTC", description="IANA name; the box is set to it")
    state: Path = Field(Path("/var/lib/onescan"), description="folder for everything that must survive a power cut")
    scanners: tuple[Scanner, ...] = Field((), description="who may send; none: any calling AE title is accepted")
    receiver: ReceiverConfig = ReceiverConfig.model_validate({})
    analyser: AnalyserConfig = AnalyserConfig.model_validate({})
    modes: dict[Cancer, Mode] = Field(
        default_factory=dict, description="who may see a cancer's answer: silent, research"
    )
    pacs: tuple[PacsConfig, ...] = Field((), description="where result objects go; none: they stay on the box")
    registry: RegistryPlan
    console: ConsoleConfig = ConsoleConfig.model_validate({})
    reconciliation: ReconciliationConfig = ReconciliationConfig.model_validate({})

    @model_validator(mode="after")
    def _one_place_for_each_thing(self) -> SitePlan:
        if self.receiver.calling_ae_titles:
            raise ValueError("receiver.calling_ae_titles: name them under scanners")
        if self.analyser.modes:
            raise ValueError("analyser.modes: name them under modes")
        if Mode.CLINICAL in self.modes.values() or self.analyser.clinical_sign_off:
            raise ValueError(
                "modes: clinical is not set by a plan. It needs a bundle with clinical evidence and an authorisation, "
                "and the sign-off of a named clinician of this site, on the appliance itself"
            )
        names = [destination.name for destination in self.pacs]
        if len(names) != len(set(names)):
            raise ValueError("pacs: two destinations have the same name")
        return self

    def appliance(self, state: Path | None = None) -> ApplianceConfig:
        """The configuration that this plan leads to; `state` instead of the plan's folder where it is given."""
        titles = tuple(dict.fromkeys(scanner.ae_title for scanner in self.scanners))
        return ApplianceConfig(
            site=self.site,
            device=self.device,
            institution=self.institution,
            state=(state or self.state).absolute(),
            receiver=self.receiver.model_copy(update={"calling_ae_titles": titles}),
            analyser=self.analyser.model_copy(update={"modes": self.modes}),
            pacs=self.pacs,
            registry=RegistryConfig(
                mqtt_host=self.registry.mqtt_host, mqtt_port=self.registry.mqtt_port, tuf_url=self.registry.tuf_url
            ),
            console=self.console,
            reconciliation=self.reconciliation,
        )


def read_plan(path: Path) -> SitePlan:
    """Read and check a plan file. ConfigError names every wrong field and what it should be."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "Write one with `onescan-provision plan-template`."
        raise ConfigError(f"can't read {path}: {error.strerror}", remedy=remedy) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} is not a YAML mapping of fields")
    try:
        plan = SitePlan.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n{_complaints(error)}") from error
    return _anchored(plan, path.absolute().parent)


_PLAIN_WORDS = {
    "extra_forbidden": "there is no such field here",
    "missing": "must be given",
}


def _complaints(error: ValidationError) -> str:
    """A line for each wrong field: `  receiver.prt: there is no such field here`."""
    lines = []
    for one in error.errors():
        where = ".".join(map(str, one["loc"])) or "the plan"
        what = _PLAIN_WORDS.get(one["type"], one["msg"].removeprefix("Value error, "))
        lines.append(f"  {where}: {what}")
    return "\n".join(lines)


def _anchored(plan: SitePlan, folder: Path) -> SitePlan:
    """Paths in a plan are relative to the plan."""
    root = plan.registry.tuf_root
    if root.file is None:
        return plan
    anchored = root.model_copy(update={"file": folder / root.file})
    return plan.model_copy(update={"registry": plan.registry.model_copy(update={"tuf_root": anchored})})


TEMPLATE = """\
# OneScan site plan: one appliance. No secret belongs in here; the enrolment token travels by another way.
# Check it with `onescan-provision check THIS_FILE`, carry it out with `onescan-provision apply THIS_FILE`.

site: kigali-central          # the hospital: small letters, digits, hyphens; the same for all of its appliances
device: ct1                   # this appliance: unique within the site
institution: Kigali Central Hospital   # stands in result objects; never leaves the hospital
timezone: Africa/Kigali
state: /var/lib/onescan       # must survive a power cut: a local disk, not a network share

scanners:                     # who may send; leave the list empty to accept any sender
  - ae_title: CT1
    address: 10.20.0.11       # optional: `check` then tells which address to enter at the scanner

receiver:
  ae_title: ONESCAN           # enter this at the scanner as called AE title
  host: 0.0.0.0               # address to listen on
  port: 11112
  # quiet_seconds: 60         # s without a new slice after which a study counts as complete; without it: learned
  # addresses: [10.20.0.0/24]  # who may connect at all; without it: any address
  # tls:                      # DICOM over TLS beside plain DICOM, for senders that can
  #   port: 2762
  #   certificate: /etc/onescan/dicom.crt
  #   key: /etc/onescan/dicom.key
  #   client_ca: /etc/onescan/scanners-ca.crt
  # stow: {port: 8043}        # STOW-RS, for gateways that speak DICOMweb; docs/other-ways-in.md has its settings

pacs:                         # where results go; leave the list empty to read them on the box
  - name: main
    host: 10.20.0.5
    port: 104
    ae_title: PACS

# reconciliation:             # who knows which CTs were performed; asked every night and after an outage
#   sources:                  # each has to know this box's AE title, address and port, as a destination of C-MOVE
#     - name: pacs
#       host: 10.20.0.5
#       port: 104
#       ae_title: PACS
#   web: [{name: archive, url: "https://10.20.0.6/dicom-web"}]   # sources that speak DICOMweb
#   night: "02:30"            # local time
#   studies_an_hour: 12       # fetched at most, and never while a scanner pushes

modes:                        # who may see an answer: silent (default: nobody) or research; clinical is not set here
  lung: silent
  liver: silent

registry:                     # from the central team
  enrol_url: https://registry.example.org:8443
  ca_sha256: "{zeros}"   # by letter or telephone, not by this network
  mqtt_host: registry.example.org
  mqtt_port: 8883
  tuf_url: https://registry.example.org/tuf
  tuf_root:
    sha256: "{zeros}"    # or `file: root.json`, beside this file

analyser:
  runtime: auto               # auto, tensorrt, openvino or onnx
  precision: auto             # auto, fp32 or int8 (where a bundle brings int8 files)
  memory_mb: 4096             # MiB for one analysis
  deadline_s: 900             # s after which an analysis gives up, visibly

console:
  host: 127.0.0.1             # 0.0.0.0 lets the department's computers see the box's page
  port: 8080
""".replace("{zeros}", "0" * 64)
"""A plan with every field that a site usually sets, and what it means. Valid as it stands, but for the registry."""
