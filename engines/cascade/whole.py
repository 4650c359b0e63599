"""One network of a bundle over one volume, by itself: labels in the volume's own order. For tools and referees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from core.errors import EngineError
from core.volume import Volume
from engines.bundle import Bundle
from engines.cascade.budget import Budget, Watch
from engines.cascade.cascade import load
from engines.cascade.labelmaps import Labels
from engines.cascade.orientation import orientation_of
from engines.cascade.segment import label_count, segment
from engines.manifest import Manifest, Network
from engines.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Segmentation:
    """labels: uint8 (z, y, x) as the volume. names: what each value means. seconds: as `Analysis.timings_s`."""

    labels: Labels
    names: Mapping[int, str]
    seconds: Mapping[str, float]


def segment_volume(
    bundle: Bundle,
    network_id: str,
    runtime: Runtime,
    volume: Volume,
    budget: Budget | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Segmentation:
    """Run one network that looks at the whole scan, after the one that it follows, if any.

    EngineError where the bundle has no such network, or it gives no map; InputRefused beyond the budget.
    """
    if all(network.id != network_id for network in bundle.manifest.networks):
        names = ", ".join(network.id for network in bundle.manifest.networks)
        raise EngineError(f"the bundle has no network {network_id}", remedy=f"Choose one of {names}.")
    watch = Watch(budget or Budget(), cancelled)
    orientation = orientation_of(volume.geometry)
    hu, spacing = orientation.view(volume.hu), orientation.spacing(volume.geometry.spacing_mm)
    spec = bundle.manifest.network(network_id)
    first = spec.after

    def before() -> tuple[Labels, int]:
        assert first is not None
        return segment(hu, spacing, load(bundle, first, runtime), watch), label_count(bundle.manifest.network(first))

    labels = np.zeros(volume.hu.shape, dtype=np.uint8)
    network, start = load(bundle, network_id, runtime), before if first is not None else None
    segment(hu, spacing, network, watch, start, out=orientation.view(labels))
    watch.seconds["total"] = watch.elapsed_s
    return Segmentation(labels, label_names(spec), dict(watch.seconds))


def the_network(manifest: Manifest) -> str:
    """The network (its id) that labels the whole scan and that no other follows; EngineError unless there is one."""
    followed = {network.after for network in manifest.networks}
    able = [n.id for n in manifest.networks if n.sees_all and not n.classifies and n.id not in followed]
    if len(able) != 1:
        names = ", ".join(able) or "none"
        raise EngineError(f"networks that label the whole scan: {names}", remedy="Name one with --network.")
    return able[0]


def label_names(spec: Network) -> Mapping[int, str]:
    """What each value of a network's label map means; 0 is background."""
    if spec.activation == "softmax":
        return dict(enumerate(spec.labels))
    order = spec.region_order or range(1, len(spec.labels) + 1)
    return {0: "background", **dict(zip(order, spec.labels, strict=True))}
