"""Every error that OneScan raises on purpose.

    OneScanError                 what happened; `remedy()` says what the person in front of it can do
    ├── ConfigError              a file that a person wrote is wrong
    ├── StorageError             a durable write did not happen
    │   └── StorageFull          ... because the disk is full
    ├── InputRefused             this input can't be analysed; carries the `Reason` that the result will state
    ├── BundleRefused            a model bundle failed a numbered check
    ├── EngineError              a network did not run, or its output can't be trusted
    │   └── DeviceLost           ... because the GPU is lost to this process, which must end
    ├── DeliveryError            the PACS or the broker did not take something (it stays in the outbox)
    ├── IllegalTransition        a state machine was asked for a step that its table does not have
    ├── IdentityError            keys, certificates, pseudonyms
    ├── EnrolmentRefused         the registry's CA said no
    └── UpdateRefused            an over-the-air update was not taken; the active bundle stays

Adapters turn their library's exceptions into these. An error never becomes an empty default.
"""

from __future__ import annotations

from core.finding import Reason


class OneScanError(Exception):
    """Base of all our errors. `str(error)` says what happened and to what; `remedy()` what to do about it."""

    default_remedy = "Look at the log lines just before this one; if they don't help, report it with them."

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what)
        self._remedy = remedy

    def remedy(self) -> str:
        """What the person in front of this error can do, in one sentence."""
        return self._remedy or self.default_remedy


class ConfigError(OneScanError):
    """A configuration or plan file that a person wrote can't be used."""

    default_remedy = "Correct the named field in the file and start again."


class StorageError(OneScanError):
    """A file could not be written durably."""

    default_remedy = "Check the disk (dmesg, smartctl) and the folder's owner and mode."


class StorageFull(StorageError):
    """The file system has no room for a durable write."""

    default_remedy = "Free space on the named file system; the sender may then push the study again."


class InputRefused(OneScanError):
    """This input can't be analysed. Carries the reason that stands in the result: never an empty result."""

    default_remedy = "Read this study by eye; OneScan did not analyse it."

    def __init__(self, reason: Reason, detail: str = "", *, remedy: str | None = None) -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value, remedy=remedy)
        self.reason = reason
        self.detail = detail


class BundleRefused(OneScanError):
    """A model bundle failed check number `check` (see `engines.bundle`)."""

    default_remedy = "Fetch or build the bundle again; the model that was active before stays active."

    def __init__(self, check: int, what: str, *, remedy: str | None = None) -> None:
        super().__init__(f"bundle check {check}: {what}", remedy=remedy)
        self.check = check


class EngineError(OneScanError):
    """A network did not run, or its output can't be trusted (NaN, wrong shape, all zero)."""

    default_remedy = "Run `onescan-engines verify` on the active bundle; restart the analyser if it persists."


class DeviceLost(EngineError):
    """A GPU error that stays: from now on every GPU call of this process fails, so the process must end."""

    default_remedy = (
        "This process must end; systemd starts it anew and the study is taken up again. "
        "If it happens again, look for NVRM, Xid or nvgpu lines in `dmesg` and at the box's temperature."
    )


class DeliveryError(OneScanError):
    """A PACS or broker did not take something. It stays in the outbox and is tried again."""

    default_remedy = "Check that the destination is up and that it knows this appliance; delivery is retried by itself."


class IllegalTransition(OneScanError):
    """A state machine was asked for a step that its table does not have. Nothing was changed."""

    default_remedy = "This is a defect of OneScan: report the state and the event named here."


class IdentityError(OneScanError):
    """A key, certificate or pseudonym can't be made or used."""

    default_remedy = "Provision this appliance again with `onescan-provision apply`."


class EnrolmentRefused(OneScanError):
    """The registry's certificate authority refused to sign."""

    default_remedy = "Ask the central team for a new enrolment token; each serves one device, once."


class UpdateRefused(OneScanError):
    """An over-the-air update was not taken; the bundle that was active stays active."""

    default_remedy = "Ask the central team to publish a corrected bundle; nothing has to be done here."
