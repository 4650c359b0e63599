"""The appliance's configuration: parsing and checking, nothing else. Written by `onescan-provision apply`.

One YAML file; every field has its unit and meaning beside it; an unknown field is an error, so that a typing mistake
can't silently fall back to a default.
"""

from __future__ import annotations

import datetime as dt
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, StringConstraints, ValidationError, model_validator

from core.errors import ConfigError
from core.finding import Cancer, Mode
from core.requirement import Requirement, requirements
from core.wire import Slug

AETitle = Annotated[str, StringConstraints(pattern=r"^[ -\[\]-~]{1,16}$", strip_whitespace=True)]
"""1 to 16 printable characters, no backslash (PS3.5 6.2, VR AE)."""
Port = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerTlsConfig(_Section):
    """This box's side of TLS 1.2 and 1.3 by BCP 195."""

    certificate: Path = Field(description="PEM file: this box's certificate, with those between it and the authority's")
    key: Path = Field(description="PEM file: its key")
    client_ca: Path | None = Field(
        None, description="PEM file: authorities of the senders' certificates; none: senders need no certificate"
    )


class ReceiverTlsConfig(ServerTlsConfig):
    """DICOM over TLS, on a port of its own."""

    port: Port = Field(2762, description="TCP port; 0 picks a free one (it then stands in run/receiver-tls.port)")


class PeerTlsConfig(_Section):
    """DICOM over TLS on an association of ours."""

    ca: Path = Field(description="PEM file: the authority of the peer's certificate")
    certificate: Path | None = Field(None, description="PEM file: this box's certificate, if the peer asks for one")
    key: Path | None = Field(None, description="PEM file: its key")


class KnownPeerConfig(_Section):
    """Where a sender takes what we have to tell it."""

    ae_title: AETitle = Field(description="by which it calls us, and by which we call it")
    host: str
    port: Port
    tls: PeerTlsConfig | None = Field(None, description="none: plain DICOM")


class CommitmentConfig(_Section):
    """Storage Commitment for senders. Without an address a sender gets its reports on its own associations only."""

    peers: tuple[KnownPeerConfig, ...] = Field((), description="senders that are called back with reports")
    max_references: int = Field(20_000, ge=1, le=100_000, description="instances in one request")
    max_owed: int = Field(1000, ge=1, description="reports that may wait for one sender; more requests are refused")
    report_days: float = Field(7.0, gt=0, description="days after which a report that nobody takes is given up")

    @model_validator(mode="after")
    def _titles_are_unique(self) -> CommitmentConfig:
        titles = [peer.ae_title for peer in self.peers]
        if len(titles) != len(set(titles)):
            raise ValueError("two peers have the same AE title")
        return self


class MppsConfig(_Section):
    """Modality Performed Procedure Steps: scanners say what they made. A study then waits for it, or for quiet."""

    offered: bool = Field(True, description="no: for scanners that report more series than they send here")
    max_references: int = Field(20_000, ge=1, le=100_000, description="instances of one step")
    max_open: int = Field(1000, ge=1, description="steps in progress of one sender; more are refused")


class WatchConfig(_Section):
    """A folder whose DICOM files come in by themselves."""

    folder: Path = Field(description="the folder; the receiver's user has to read it, and to write it unless left")
    after: Literal["move", "remove", "leave"] = Field(
        "move", description="what becomes of a stored file: to the sub-folder done, removed, or left where it is"
    )
    settle_s: float = Field(10.0, gt=0, description="s in which nothing of a sub-folder may change before it is taken")
    max_files: int = Field(100_000, ge=1, description="files that one look takes in; the rest has its turn later")


class StowConfig(_Section):
    """STOW-RS: instances by HTTP. Without TLS everybody on the network can read them."""

    host: str = Field("0.0.0.0", description="address to listen on")
    port: Port = Field(8043, description="TCP port; 0 picks a free one (it then stands in run/receiver-stow.port)")
    tls: ServerTlsConfig | None = Field(None, description="none: plain HTTP")
    sender_name: AETitle = Field("STOW-RS", description="by which its clients stand among the senders, as an AE title")
    connections: int = Field(16, ge=1, le=200, description="connections at the same time; each may hold one instance")
    idle_s: float = Field(60.0, gt=0, description="s for a request's head, and for each 64 KiB of its body")
    pause_s: float = Field(
        10.0, gt=0, description="s without a request after which what an address sent counts as sent to its end"
    )
    max_part_bytes: int = Field(1 << 30, ge=1 << 20, description="bytes of one instance; more: 413")
    max_parts: int = Field(10_000, ge=1, le=100_000, description="instances in one request; more: 413")


class ReceiverConfig(_Section):
    """How studies come in."""

    host: str = Field("0.0.0.0", description="address to listen on")
    port: Port = Field(11112, description="TCP port; 0 picks a free one (it then stands in run/receiver.port)")
    ae_title: AETitle = Field("ONESCAN", description="our AE title; a sender that calls another one is refused")
    calling_ae_titles: tuple[AETitle, ...] = Field((), description="senders that may connect; empty: any")
    quiet_seconds: float | None = Field(
        None,
        gt=0,
        description="s without a new slice after which a study counts as complete; none: learned for each scanner",
    )
    min_free_bytes: int = Field(2 << 30, ge=0, description="bytes of free disk below which stores are refused (A700)")
    reserve_bytes: int = Field(
        512 << 20,
        ge=0,
        description="bytes of the spool that are written, with zeros, before anybody sends (at most an eighth of the "
        "free disk), so that what comes is synced sooner; the disk writes every byte twice then. 0: none",
    )
    addresses: tuple[IPvAnyNetwork, ...] = Field((), description="addresses or networks that may connect; empty: any")
    tls: ReceiverTlsConfig | None = Field(None, description="DICOM over TLS beside plain DICOM; none: not listened for")
    max_associations: int = Field(20, ge=1, le=200, description="associations served at the same time")
    connections_per_minute: float = Field(3000.0, gt=0, description="new connections a minute from one address")
    idle_s: float = Field(60.0, gt=0, description="s an association may be silent, and s that one PDU may take")
    negotiation_s: float = Field(15.0, gt=0, description="s from connecting to the request for an association")
    max_dataset_bytes: int = Field(2 << 30, ge=1 << 20, description="bytes of one instance")
    max_request_bytes: int = Field(4 << 20, ge=64 << 10, description="bytes of a data set that is not stored")
    commitment: CommitmentConfig = CommitmentConfig()
    mpps: MppsConfig = MppsConfig()
    watch: WatchConfig | None = Field(None, description="none: no folder is watched")
    stow: StowConfig | None = Field(None, description="none: STOW-RS is not listened for")
    keep_studies_days: float = Field(30.0, gt=0, description="days that a finished study stays in the spool")


class AnalyserConfig(_Section):
    """How studies are read."""

    runtime: Literal["auto", "tensorrt", "openvino", "onnx"] = Field(
        "auto", description="which runtime runs the networks"
    )
    precision: Literal["auto", "fp32", "int8"] = Field(
        "auto",
        description="auto: bf16 where the CPU has it; int8: where a bundle brings int8 files and holds with them",
    )
    threads: int = Field(0, ge=0, description="CPU threads for the networks; 0: all cores")
    memory_mb: int = Field(4096, ge=512, description="MiB that one analysis may use")
    max_volume_mb: int = Field(
        2048,
        ge=64,
        description="MiB of the HU volume of one series, and never more than memory_mb; a larger one is not read",
    )
    deadline_s: float = Field(900.0, gt=0, description="s after which an analysis gives up visibly")
    max_attempts: int = Field(
        3, ge=1, description="times a study is tried (a crash counts) before it is answered as failed"
    )
    unload_after_s: float = Field(300.0, ge=0, description="s without work after which the networks leave memory")
    modes: dict[Cancer, Mode] = Field(default_factory=dict, description="who may see a cancer's answer; default silent")
    clinical_sign_off: str = Field("", description="named clinician who signed off clinical use at this site")
    series: dict[Cancer, Requirement] = Field(
        default_factory=dict,
        description="what a series must be for a cancer, beyond the defaults: tightens, never widens",
    )

    @model_validator(mode="after")
    def _some_series_can_serve(self) -> AnalyserConfig:
        requirements(self.series)
        return self

    @model_validator(mode="after")
    def _clinical_needs_a_name(self) -> AnalyserConfig:
        if Mode.CLINICAL in self.modes.values() and not self.clinical_sign_off.strip():
            raise ValueError("mode clinical needs clinical_sign_off: the clinician who answers for it at this site")
        return self


class PacsConfig(_Section):
    """A destination of result objects."""

    name: Slug
    host: str
    port: Port
    ae_title: AETitle = Field(description="the PACS's AE title")


class SourceConfig(_Section):
    """A PACS or scanner that knows which CTs were performed. It has to know our AE title, address and port."""

    name: Slug
    host: str
    port: Port
    ae_title: AETitle = Field(description="the source's AE title")
    model: Literal["study-root", "patient-root"] = Field("study-root", description="its query/retrieve model")
    tls: PeerTlsConfig | None = Field(None, description="none: plain DICOM")


class WebSourceConfig(_Section):
    """A source that speaks DICOMweb: asked with QIDO-RS, fetched with WADO-RS."""

    name: Slug
    url: str = Field(pattern=r"^https?://", description="base URL of the service; studies/ is below it")
    ca: Path | None = Field(None, description="PEM file: trusted besides the system's authorities")
    credentials: Path | None = Field(None, description="file with user:password or a bearer token; none: no login")


class ReconciliationConfig(_Section):
    """Asking what was performed, and fetching what this box missed. Without sources nothing is asked."""

    sources: tuple[SourceConfig, ...] = Field((), description="who is asked; none: nobody")
    web: tuple[WebSourceConfig, ...] = Field((), description="sources that speak DICOMweb")
    night: dt.time = Field(dt.time(2, 30), description="local time of day at which all sources are asked")
    downtime_minutes: float = Field(10.0, gt=0, description="min away after which the sources are asked at once")
    settle_minutes: float = Field(15.0, ge=0, description="min after such a start in which scanners may push again")
    look_back_days: int = Field(7, ge=1, le=90, description="days of studies that are asked for at most")
    studies_an_hour: float = Field(12.0, gt=0, le=3600, description="studies fetched in an hour at most")
    tries: int = Field(5, ge=1, description="attempts at one study before it waits for the next night")
    reviewed_by: tuple[Literal["report", "document", "key-objects", "presentation-state"], ...] = Field(
        (), description="objects in a source, not ours, that show that a person reviewed their study; none: unknown"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> ReconciliationConfig:
        if len(self.names) != len(set(self.names)):
            raise ValueError("two sources have the same name")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All sources."""
        return (*(source.name for source in self.sources), *(source.name for source in self.web))


class RegistryConfig(_Section):
    """The central registry. Addresses only: keys and certificates stand under `identity/`."""

    mqtt_host: str
    mqtt_port: Port = 8883
    tuf_url: str = Field(description="base URL of the model repository; metadata/ and targets/ are below it")


class ConsoleConfig(_Section):
    """The box's own pages."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8080, description="TCP port; 0 picks a free one (it then stands in run/console.port)")


class ApplianceConfig(_Section):
    """Everything that differs from box to box."""

    site: Slug = Field(description="the hospital, as the registry knows it")
    device: Slug = Field(description="this box, unique within the site")
    institution: str = Field("", description="the hospital's name for result objects; never leaves the hospital")
    state: Path = Field(description="folder for everything that must survive a power cut")
    receiver: ReceiverConfig = ReceiverConfig()
    analyser: AnalyserConfig = AnalyserConfig()
    pacs: tuple[PacsConfig, ...] = Field((), description="where result objects go; none: they stay on the box")
    registry: RegistryConfig
    console: ConsoleConfig = ConsoleConfig()
    reconciliation: ReconciliationConfig = ReconciliationConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> ApplianceConfig:
        names = [destination.name for destination in self.pacs]
        if len(names) != len(set(names)):
            raise ValueError("two PACS destinations have the same name")
        return self

    @property
    def may_send(self) -> tuple[str, ...]:
        """Calling AE titles that may connect; none: any. Sources have to: what is fetched they push."""
        listed, asked = self.receiver.calling_ae_titles, self.reconciliation
        ours = (self.receiver.ae_title,) if asked.web else ()
        return (*listed, *(source.ae_title for source in asked.sources), *ours) if listed else ()

    @property
    def may_connect(self) -> tuple[IPvAnyNetwork, ...]:
        """Addresses that may connect; none: any. What comes by DICOMweb comes from this box itself."""
        listed = self.receiver.addresses
        return (*listed, IPv4Network("127.0.0.0/8")) if listed and self.reconciliation.web else listed

    @property
    def spool(self) -> Path:
        """Received instances."""
        return self.state / "spool"

    @property
    def senders(self) -> Path:
        """What the receiver knows of its senders."""
        return self.run / "senders.json"

    @property
    def objects(self) -> Path:
        """Result objects, a folder a result."""
        return self.state / "objects"

    @property
    def bundles(self) -> Path:
        """Installed model bundles, a folder a digest."""
        return self.state / "bundles"

    @property
    def plans(self) -> Path:
        """TensorRT's plans, built on this device for this device."""
        return self.state / "plans"

    @property
    def tuf(self) -> Path:
        """Trusted update metadata."""
        return self.state / "tuf"

    @property
    def identity(self) -> Path:
        """Device key and certificate, registry CA, site key."""
        return self.state / "identity"

    @property
    def run(self) -> Path:
        """Doorbells, port files, the GPU lease: nothing that must survive."""
        return self.state / "run"

    @property
    def intake_db(self) -> Path:
        """Written by the receiver alone."""
        return self.state / "intake.db"

    @property
    def journal_db(self) -> Path:
        """Studies after hand-over, answers, outboxes, bundles."""
        return self.state / "journal.db"


def parse(text: str, source: str = "configuration") -> ApplianceConfig:
    """Check a YAML text. ConfigError names every wrong field and what it should be."""
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{source} is not a YAML mapping of fields")
    try:
        return ApplianceConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe(error)}") from error


def load(path: Path) -> ApplianceConfig:
    """Read and check the configuration file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        remedy = "Run `onescan-provision apply` to write it, or name it with --config."
        raise ConfigError(f"can't read {path}: {error.strerror}", remedy=remedy) from error


def dump(config: ApplianceConfig) -> str:
    """YAML that `parse` reads back to the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def describe(error: ValidationError) -> str:
    """All complaints of a validation on one line: `receiver.port: Input should be ...`."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
