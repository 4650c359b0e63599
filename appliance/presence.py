"""What the box says of itself to the registry: which bundle it runs, what became of the wanted one, what it is."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.clock import SystemClock
from appliance.config import ApplianceConfig
from appliance.ports import BundleRow
from appliance.storage.journal import Journal
from core.wire import BirthBody, BundleRef, ReportedBody
from engines.manifest import Manifest

if TYPE_CHECKING:
    from appliance.update.updater import Report


@lru_cache(maxsize=4)
def read_manifest(bundles: Path, digest: str) -> Manifest:
    """The manifest of an installed bundle; its files were verified when it was installed."""
    return Manifest.model_validate_json((bundles / digest / "manifest.json").read_bytes())


def bundle_ref(config: ApplianceConfig, row: BundleRow | None) -> BundleRef | None:
    """A bundle as messages name it."""
    if row is None:
        return None
    synthetic = read_manifest(config.bundles, row.digest).synthetic
    return BundleRef(name=row.name, version=row.version, digest=row.digest, synthetic=synthetic)


def birth_body(config: ApplianceConfig, journal: Journal, clock: SystemClock, session: int, software: str) -> BirthBody:
    """What this device is."""
    return BirthBody(
        device=config.device,
        epoch=journal.messages.epoch,
        boot_id=clock.stamp().boot_id,
        session=session,
        ts=clock.now(),
        software=software,
        hardware=f"{platform.machine()} {len(os.sched_getaffinity(0))} cores",
        runtime=config.analyser.runtime,
        bundle=bundle_ref(config, journal.shelf.active()),
    )


def reported_body(config: ApplianceConfig, report: Report, clock: SystemClock) -> ReportedBody:
    """What the updater says, as the registry gets it."""
    return ReportedBody(
        device=config.device,
        ts=clock.now(),
        active=bundle_ref(config, report.active),
        desired_version=report.desired[1] if report.desired else None,
        state=report.state,
        code=report.code,
    )
