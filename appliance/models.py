"""The model on the shelf: opens the active bundle when the first study needs it, lets go of it when nobody does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.choosing import SeriesRules
from appliance.ports import BundleRow, BundleShelf
from appliance.reporting import Model
from core.errors import BundleRefused, EngineError
from core.finding import Cancer, Reason
from core.requirement import ANY, Requirement, requirements
from engines.bundle import Bundle, open_bundle
from engines.cascade import Budget, Cascade
from engines.manifest import Manifest
from engines.runtime import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenModel:
    """A bundle that is verified and ready; or, without a cascade, why none is.

    asked: what its manifest asks of a series, for each cancer that it knows.
    """

    cascade: Cascade | None
    model: Model | None
    without: Reason = Reason.NO_ACTIVE_BUNDLE
    asked: Mapping[Cancer, Requirement] = field(default_factory=dict)


class Models:
    """At most one bundle is open at a time; the next study after an activation gets the new one."""

    def __init__(
        self,
        shelf: BundleShelf,
        bundles: Path,
        runtime: Callable[[Bundle], Runtime],
        budget: Budget,
        unload_after_s: float,
    ) -> None:
        self._shelf = shelf
        self._bundles = bundles
        self._runtime = runtime
        self._budget = budget
        self._unload_after_s = unload_after_s
        self._open: OpenModel | None = None
        self._used = 0.0

    def current(self) -> OpenModel:
        """The active bundle, opened (all files hashed again) if it is not open already."""
        row = self._shelf.active()
        if row is None:
            return OpenModel(None, None)
        if self._open is None or self._open.model is None or self._open.model.digest != row.digest:
            self._open = None  # give the old one's memory back before the new one takes its own
            self._open = self._load(row)
        self._used = time.monotonic()
        opened = self._open
        if opened.cascade is None:
            self._open = None  # try again with the next study
        return opened

    def _load(self, row: BundleRow) -> OpenModel:
        try:
            bundle = open_bundle(self._bundles / row.digest)
            return OpenModel(
                Cascade(bundle, self._runtime(bundle), self._budget),
                model_of(bundle.manifest, row.digest),
                asked=asked_by(bundle.manifest),
            )
        except (BundleRefused, EngineError) as error:
            log.error("the active bundle can't be used", exc_info=error, extra={"bundle": row.digest})
            return OpenModel(None, None, Reason.FAILED)

    def rest(self) -> bool:
        """Let go of the networks after long idleness; True if it did just now."""
        if self._open is None or time.monotonic() - self._used < self._unload_after_s:
            return False
        self._open = None
        return True


def asked_by(manifest: Manifest) -> dict[Cancer, Requirement]:
    """What a bundle's contraindications ask of a series: what else they say is seen in the images, by the cascade."""
    limits = {c.cancer: c.contraindications.max_slice_spacing_mm for c in manifest.cancers}
    return {cancer: Requirement(max_spacing_mm=min(mm, ANY.max_spacing_mm)) for cancer, mm in limits.items()}


def series_rules(asked: Mapping[Cancer, Requirement], tightened: Mapping[Cancer, Requirement]) -> SeriesRules:
    """Which series to read: the defaults, what a bundle asks of a series for the cancers it knows, what a site does."""
    return SeriesRules(requirements(asked, tightened), tuple(asked) or tuple(Cancer))


def model_of(manifest: Manifest, digest: str) -> Model:
    """A bundle as reports and messages name it."""
    return Model(
        name=manifest.name,
        version=manifest.version,
        digest=digest,
        label=manifest.label,
        synthetic=manifest.synthetic,
        udi=manifest.udi_di,
    )
