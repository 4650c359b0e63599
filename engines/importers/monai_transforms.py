"""MONAI's transforms and inferer → what a manifest says of a network. Known by name, or refused by name.

Only what happens to the key `image` counts on the way in. Each handler says what its transform means for us, or refuses
with the reason; what is left out on request (`without`) is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.importers import ImportRefused
from engines.importers.monai_config import Component

LOWEST_HU, HIGHEST_HU = -32768.0, 32767.0  # of int16: clipping to these clips nothing
_NOTHING = frozenset(
    """
    AddChanneld AsChannelFirstd EnsureChannelFirstd EnsureTyped FromMetaTensord LoadImaged ToDeviced ToTensord
    """.split()  # noqa: SIM905
)
_NOTHING_AFTER = frozenset("EnsureTyped FromMetaTensord SaveImaged ToDeviced ToTensord".split())  # noqa: SIM905
_LETTERS = ({"S", "I"}, {"P", "A"}, {"L", "R"})
_OUR_SIGMA = 0.125
_FLOOR = 1e-3  # of MONAI's importance map (`compute_importance_map`)


@dataclass
class Way:
    """What the transforms so far mean: fields of a manifest's network, and notes for the person who imports."""

    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def preprocessing(parts: Sequence[Component], without: Collection[str] = ()) -> Way:
    """axes, spacing_mm, resampling, intensity and normalise_first. ImportRefused names what has no place there."""
    way = Way()
    for part in _kept(parts, without, way):
        keys = part.arguments.get("keys", "image")
        if "image" not in ([keys] if isinstance(keys, str) else keys):
            continue
        if part.name in _NOTHING:
            continue
        handler = _BEFORE.get(part.name)
        if handler is None:
            raise _refused(part, "it is not among the transforms that a manifest can say")
        handler(part, way)
    if "axes" not in way.fields:
        raise ImportRefused(
            "there is no Orientationd: the network sees every scan in the order in which its file was written",
            remedy="Add Orientationd with the axcodes of the training files to the preprocessing.",
        )
    if "spacing_mm" not in way.fields:
        raise ImportRefused("there is no Spacingd: the network sees every scan in its own spacing, which none can run")
    way.fields.setdefault("intensity", {"kind": "none"})
    return way


def inferer(part: Component) -> dict[str, Any]:
    """tiling and blend of a SlidingWindowInferer."""
    given = dict(part.arguments)
    if part.name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise _refused(part, "only SlidingWindowInferer has tiles that a manifest can say")
    size = given.get("roi_size")
    sizes = [size] * 3 if isinstance(size, int) else size
    if not isinstance(sizes, list) or len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise _refused(part, f"roi_size {size} leaves the size of a tile to the scan")
    overlap = given.get("overlap", 0.25)
    overlaps = set(overlap) if isinstance(overlap, list) else {overlap}
    if len(overlaps) != 1:
        raise _refused(part, f"overlap {overlap} differs between axes")
    mode = str(given.get("mode", "constant")).rsplit(".", 1)[-1].lower()
    if mode not in ("gaussian", "constant"):
        raise _refused(part, f"mode {mode} is unknown")
    if mode == "gaussian":
        _only(part, "sigma_scale", _OUR_SIGMA)
    _only(part, "padding_mode", "constant")
    _only(part, "cval", 0)
    tiling = {"kind": "patch", "size": sizes, "overlap": overlaps.pop(), "gaussian": mode == "gaussian"}
    if mode == "gaussian":
        tiling["floor"] = _FLOOR
    return {"tiling": {**tiling, "steps": "last_shifted", "pad": "zero_centred"}, "blend": "logits"}


def postprocessing(parts: Sequence[Component], without: Collection[str] = ()) -> Way:
    """activation. ImportRefused names what changes the label map in a way that no manifest says."""
    way = Way()
    for part in _kept(parts, without, way):
        if part.name in _NOTHING_AFTER:
            continue
        handler = _AFTER.get(part.name)
        if handler is None:
            raise _refused(part, "it changes the label map; the cascade has its own rules for that")
        handler(part, way)
    if "activation" not in way.fields:
        raise ImportRefused(
            "the postprocessing has neither softmax, sigmoid nor argmax: what do the outputs mean?",
            remedy="Add Activationsd or AsDiscreted to the postprocessing.",
        )
    return way


def _kept(parts: Sequence[Component], without: Collection[str], way: Way) -> list[Component]:
    way.notes += [f"{part.name} is left out, as asked for" for part in parts if part.name in without]
    return [part for part in parts if part.name not in without]


def _orientation(part: Component, way: Way) -> None:
    codes = "RAS" if part.arguments.get("as_closest_canonical") else part.arguments.get("axcodes")
    if "spacing_mm" in way.fields:
        raise _refused(part, "it comes after Spacingd, so that the grid hangs on the order in the file")
    if part.arguments.get("labels") is not None and not _is_default_labels(part.arguments["labels"]):
        raise _refused(part, "its letters have other meanings than L/R, P/A and I/S")
    letters = "".join(codes) if isinstance(codes, (str, list)) else ""
    if len(letters) != 3 or any(len(pair & set(letters)) != 1 for pair in _LETTERS):
        raise _refused(part, f"axcodes {codes!r} do not name three patient axes")
    way.fields["axes"] = letters


def _spacing(part: Component, way: Way) -> None:
    given = part.arguments
    spacing = given.get("pixdim")
    values = [spacing] * 3 if isinstance(spacing, (int, float)) else spacing
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(mm, (int, float)) and mm > 0 for mm in values)
    ):
        raise _refused(part, f"pixdim {spacing} leaves a spacing to the scan")
    mode = _of_image(part, given.get("mode", "bilinear"))
    if str(mode) not in ("bilinear", "GridSampleMode.BILINEAR", "1"):
        raise _refused(part, f"the image is resampled in mode {mode}, not bilinear")
    if str(_of_image(part, given.get("padding_mode", "border"))) not in ("border", "GridSamplePadMode.BORDER"):
        raise _refused(part, f"padding_mode {given['padding_mode']}: only border goes on at the edge")
    for name in ("diagonal", "align_corners", "scale_extent", "min_pixdim", "max_pixdim"):
        if _of_image(part, given.get(name)) not in (None, False):
            raise _refused(part, f"{name} moves the grid in a way that a manifest does not say")
    way.fields["spacing_mm"] = [float(mm) for mm in values]
    way.fields["resampling"] = {"kind": "linear"}


def _range(part: Component, way: Way) -> None:
    given = part.arguments
    low, high = float(given["a_min"]), float(given["a_max"])
    to_low, to_high = given.get("b_min"), given.get("b_max")
    clip = bool(given.get("clip", False))
    if to_low is None or to_high is None:
        if clip:
            raise _refused(part, "it clips to limits that it does not name")
        to_low, to_high = 0.0, 1.0
    if not low < high or not float(to_low) < float(to_high):
        raise _refused(part, "its ranges must rise")
    scale = (high - low) / (float(to_high) - float(to_low))
    clipped = (low, high) if clip else (LOWEST_HU, HIGHEST_HU)
    _intensity(part, way, _linear_map(clipped, low - float(to_low) * scale, scale))


def _normalise(part: Component, way: Way) -> None:
    given = part.arguments
    _only(part, "nonzero", False)
    subtrahend, divisor = given.get("subtrahend"), given.get("divisor")
    if subtrahend is None and divisor is None:
        _intensity(part, way, {"kind": "zscore"})
    elif isinstance(subtrahend, (int, float)) and isinstance(divisor, (int, float)) and divisor > 0:
        _intensity(part, way, _linear_map((LOWEST_HU, HIGHEST_HU), float(subtrahend), float(divisor)))
    else:
        raise _refused(part, "it takes one of mean and deviation from the image, the other from the configuration")


def _rescale(part: Component, way: Way) -> None:
    if (part.arguments.get("minv", 0.0), part.arguments.get("maxv", 1.0)) != (0.0, 1.0):
        raise _refused(part, "only the range 0 to 1 is known")
    if part.arguments.get("factor") is not None:
        raise _refused(part, "factor scales by something that a manifest does not say")
    _intensity(part, way, {"kind": "rescale"})


def _crop(part: Component, way: Way) -> None:
    if "intensity" in way.fields and way.fields["intensity"]["kind"] == "zscore":
        raise _refused(part, "after a z-score the foreground is about half of everything")
    if part.arguments.get("select_fn") is not None:
        raise _refused(part, "its select_fn is code")
    way.notes.append(
        "CropForegroundd only moves the tiles and leaves out what is not above 0: tiles stand elsewhere here, so that "
        "labels may differ in single voxels"
    )


def _cast(part: Component, way: Way) -> None:
    kind = str(_of_image(part, part.arguments.get("dtype", "float32")))
    if not kind.endswith("float32"):
        raise _refused(part, f"the image becomes {kind}")


def _activations(part: Component, way: Way) -> None:
    if "back" not in way.fields:
        way.fields["back"] = "probabilities"
    softmax, sigmoid = (bool(part.arguments.get(name)) for name in ("softmax", "sigmoid"))
    if softmax == sigmoid or part.arguments.get("other") is not None:
        raise _refused(part, "either softmax or sigmoid is known")
    way.fields["activation"] = "softmax" if softmax else "sigmoid"


def _discrete(part: Component, way: Way) -> None:
    if part.arguments.get("argmax"):
        if way.fields.get("activation") == "sigmoid":
            raise _refused(part, "argmax over sigmoids")
        way.fields["activation"] = "softmax"
        return
    threshold = part.arguments.get("threshold")
    if way.fields.get("activation") != "sigmoid" or threshold != 0.5:
        raise _refused(part, f"threshold {threshold}: only 0.5 of a sigmoid is where a label begins")


def _invert(part: Component, way: Way) -> None:
    way.fields.setdefault("back", "logits")
    nearest = part.arguments.get("nearest_interp", True)
    if nearest not in (False, [False]):
        way.notes.append(
            "Invertd repeats the nearest label (nearest_interp); the cascade interpolates before it decides, so that "
            "edges are smoother"
        )


def _linear_map(clip: tuple[float, float], mean: float, std: float) -> dict[str, Any]:
    return {"kind": "clip", "clip_low_hu": clip[0], "clip_high_hu": clip[1], "mean_hu": mean, "std_hu": std}


def _intensity(part: Component, way: Way, meaning: dict[str, Any]) -> None:
    if "intensity" in way.fields:
        raise _refused(part, "it is the second transform of intensities; a manifest has one")
    way.fields["intensity"] = meaning
    way.fields["normalise_first"] = "spacing_mm" not in way.fields


def _of_image(part: Component, value: Any) -> Any:
    """The entry of the key `image` where a transform gives one for each key."""
    keys = part.arguments.get("keys", "image")
    if isinstance(value, list) and isinstance(keys, list) and len(value) == len(keys):
        return value[keys.index("image")]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _only(part: Component, name: str, value: object) -> None:
    if part.arguments.get(name, value) != value:
        raise _refused(part, f"{name} {part.arguments[name]}: only {value} is known")


def _is_default_labels(labels: object) -> bool:
    return labels == [["L", "R"], ["P", "A"], ["I", "S"]]


def _refused(part: Component, why: str) -> ImportRefused:
    return ImportRefused(
        f"{part.name} ({part.where}): {why}",
        remedy=f"Change the configuration, or leave it out knowingly: --without {part.name}.",
    )


_BEFORE: Mapping[str, Callable[[Component, Way], None]] = {
    "CastToTyped": _cast,
    "CropForegroundd": _crop,
    "NormalizeIntensityd": _normalise,
    "Orientationd": _orientation,
    "ScaleIntensityRanged": _range,
    "ScaleIntensityd": _rescale,
    "Spacingd": _spacing,
}
_AFTER: Mapping[str, Callable[[Component, Way], None]] = {
    "Activationsd": _activations,
    "AsDiscreted": _discrete,
    "Invertd": _invert,
}
