"""How a network is fed and read: spacing, axes, resampling, intensities, tiles, what is averaged, what comes out."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from engines.manifest.vocabulary import HU, Name, Part, PositiveMm, Size, refuse_repeats

Axes = Annotated[str, StringConstraints(pattern=r"^[SIPALR]{3}$")]
"""Patient directions to which three array axes grow: Superior or Inferior, Posterior or Anterior, Left or Right."""
CANONICAL: Axes = "SPL"
Stage = Literal["localise", "detect", "classify", "characterise"]
Axis = Literal["z", "y", "x"]


class Clip(Part):
    """HU → input: clip to [clip_low, clip_high], subtract the mean, divide by the standard deviation.

    nnU-Net's CTNormalization and MONAI's ScaleIntensityRange with clipping are both of this form.
    """

    kind: Literal["clip"] = "clip"
    clip_low_hu: HU = Field(description="HU; lower values become this")
    clip_high_hu: HU = Field(description="HU; higher values become this")
    mean_hu: HU = Field(description="HU; becomes 0")
    std_hu: float = Field(gt=0, le=10000, description="HU; becomes 1")

    @model_validator(mode="after")
    def _ordered(self) -> Clip:
        if self.clip_low_hu >= self.clip_high_hu:
            raise ValueError("clip_low_hu must be below clip_high_hu")
        return self


class ZScore(Part):
    """Subtract the image's own mean, divide by its own standard deviation."""

    kind: Literal["zscore"] = "zscore"


class Rescale(Part):
    """The image's own minimum becomes 0, its maximum 1."""

    kind: Literal["rescale"] = "rescale"


class Raw(Part):
    """HU as they are."""

    kind: Literal["none"] = "none"


Intensity = Annotated[Clip | ZScore | Rescale | Raw, Field(discriminator="kind")]


class Area(Part):
    """The mean of the linear interpolant over each voxel where that is coarser, linear where it is finer."""

    kind: Literal["area"] = "area"


class Spline(Part):
    """nnU-Net v2's resampling (Isensee et al. 2021): splines in, lower order out, the coarse axis by itself."""

    kind: Literal["spline"] = "spline"
    order: int = Field(default=3, ge=0, le=5, description="order of the spline for the image")
    logits_order: int = Field(default=1, ge=0, le=1, description="order for the logits on their way back")
    order_z: int = Field(default=0, ge=0, le=1, description="order along the coarse axis where that is separate")
    logits_order_z: int = Field(default=0, ge=0, le=1, description="the same for the logits")
    separate_z: Literal["auto", "always", "never"] = Field(
        default="auto", description="auto: where one axis is coarser than another by more than `anisotropy`"
    )
    anisotropy: float = Field(default=3.0, gt=1, description="ratio of spacings")
    crop_nonzero: bool = Field(default=True, description="work on the bounding box of the voxels that are not 0 HU")


class Linear(Part):
    """MONAI's Spacing: linear, the centres of the first voxels coincide."""

    kind: Literal["linear"] = "linear"
    back: Literal["probabilities", "logits"] = Field(
        default="probabilities", description="what is interpolated on its way back to the scan"
    )


Resampling = Annotated[Area | Spline | Linear, Field(discriminator="kind")]


class WholeVolume(Part):
    """The region is given to the network in one piece, padded at its far ends with air."""

    kind: Literal["whole"] = "whole"
    pad_multiple: int = Field(ge=1, le=256, description="voxels; each axis is padded to a multiple of this")


class Patches(Part):
    """The region is given to the network in overlapping tiles, blended."""

    kind: Literal["patch"] = "patch"
    size: Size = Field(description="voxels of a tile along the network's axes")
    overlap: float = Field(ge=0, lt=1, description="share of a tile's edge by which neighbours overlap")
    air_below_hu: HU = Field(
        default=-950, description="HU; a tile with no voxel of the organ's surroundings above this is not run"
    )
    gaussian: bool = Field(default=True, description="voxels near a tile's middle count more; false: all alike")
    peak: Literal["middle", "voxel"] = Field(
        default="middle",
        description="gaussian: its peak lies halfway between the tile's ends, or on voxel edge // 2 (nnU-Net)",
    )
    floor: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="gaussian: every voxel counts at least this share of the middle (MONAI: 0.001)",
    )
    steps: Literal["even", "last_shifted"] = Field(
        default="even", description="even: tiles spread evenly (nnU-Net); last_shifted: fixed steps, the last cut back"
    )
    pad: Literal["air_far", "zero_centred"] = Field(
        default="air_far",
        description="a region smaller than a tile: air at the far ends, or 0 after normalisation on both sides",
    )

    @model_validator(mode="after")
    def _weighed(self) -> Patches:
        if self.floor and not self.gaussian:
            raise ValueError("a floor is for gaussian weights: all others are alike")
        return self


class Stretched(Part):
    """The region of interest, stretched to a fixed size."""

    kind: Literal["fixed"] = "fixed"
    size: Size = Field(description="voxels along the network's axes")


class Centred(Part):
    """A block of fixed size at the network's spacing around a lesion."""

    kind: Literal["centred"] = "centred"
    size: Size = Field(description="voxels along the network's axes")


Tiling = Annotated[WholeVolume | Patches | Stretched | Centred, Field(discriminator="kind")]
_TILINGS: dict[str, tuple[str, ...]] = {
    "localise": ("whole", "patch"),
    "detect": ("whole", "patch", "fixed"),
    "classify": ("fixed",),
    "characterise": ("fixed", "centred"),
}
_DIRECTIONS = ("SI", "PA", "LR")


class Reference(Part):
    """An organ whose brightness in this scan a network is told, to compare with: blood, or the organ's own tissue."""

    organ: Name = Field(description="an organ of this manifest; the median HU of its core at the localiser's spacing")
    otherwise_hu: HU = Field(description="HU; what the network is told where nothing of the organ was found")


class Network(Part):
    """One network, as one ONNX file or as one for each fold of its training.

    Input `image`, float32 (1, I, Z, Y, X): the scan; then the labels of `after`, one-hot, without its background; then
    the mask, where `mask` asks for it; then one channel for each of `references`, filled with its HU as the intensity
    rule makes it. Output `logits`, float32 (1, C, Z, Y, X), C the number of labels; of a network
    that classifies or characterises (1, C). Spatial axes of `whole` and `patch` are dynamic or fit.
    """

    id: Name
    stage: Stage
    files: tuple[Name, ...] = Field(min_length=1, description="names of files with role network, one a fold")
    int8_files: tuple[Name, ...] = Field(
        default=(), description="the same folds as explicit symmetric Q/DQ networks; run only where parity holds"
    )
    spacing_mm: tuple[PositiveMm, PositiveMm, PositiveMm] = Field(description="mm of its voxels along its axes")
    axes: Axes = Field(default=CANONICAL, description="patient directions to which its three axes grow")
    resampling: Resampling = Area()
    intensity: Intensity
    normalise_first: bool = Field(default=False, description="normalise on the source grid, before resampling")
    tiling: Tiling
    mirror: tuple[Axis, ...] = Field(default=(), description="its axes to mirror along; all combinations are averaged")
    blend: Literal["probabilities", "logits"] = Field(
        default="probabilities", description="what is averaged over tiles, mirrored runs and folds"
    )
    region: Literal["organ", "volume"] = Field(default="organ", description="where a detector looks")
    after: Name | None = Field(default=None, description="network whose labels enter one-hot (nnU-Net's cascade)")
    mask: bool = Field(
        default=False, description="a last input channel holds the organ's (classify) or lesion's (characterise) mask"
    )
    references: tuple[Reference, ...] = Field(
        default=(), description="characterise: organs whose brightness fills further input channels, one each"
    )
    activation: Literal["softmax", "sigmoid"] = Field(
        description="softmax: labels exclude each other, the first is background; sigmoid: each label by itself"
    )
    labels: tuple[Name, ...] = Field(min_length=1, max_length=256, description="meaning of each output channel")
    region_order: tuple[int, ...] = Field(
        default=(), description="sigmoid: value that each label writes into a label map, in this order (nnU-Net)"
    )
    bytes_per_voxel: int = Field(
        default=512, ge=1, le=1_000_000, description="bytes; memory that running it takes per input voxel, measured"
    )

    @property
    def classifies(self) -> bool:
        """True where the output is (1, C): one score a label, no map."""
        return self.stage in ("classify", "characterise")

    @property
    def further_channels(self) -> int:
        """Input channels of its mask and its references."""
        return int(self.mask) + len(self.references)

    @property
    def sees_all(self) -> bool:
        """True where it runs over the whole scan, not over an organ's region."""
        return self.stage == "localise" or (self.stage == "detect" and self.region == "volume")

    @model_validator(mode="after")
    def _readable(self) -> Network:
        refuse_repeats(self.labels, "label")
        if self.activation == "softmax" and len(self.labels) < 2:
            raise ValueError("softmax needs a background and at least one label")
        if self.region_order and (self.activation != "sigmoid" or len(self.region_order) != len(self.labels)):
            raise ValueError("region_order gives one value for each label of a sigmoid network")
        if self.int8_files and len(self.int8_files) != len(self.files):
            raise ValueError("int8_files must be as many as files")
        if any(sum(letter in self.axes for letter in pair) != 1 for pair in _DIRECTIONS):
            raise ValueError(f"axes {self.axes} must name one of S and I, one of P and A, one of L and R")
        return self

    @model_validator(mode="after")
    def _feedable(self) -> Network:
        if self.tiling.kind not in _TILINGS[self.stage]:
            raise ValueError(f"a network that is to {self.stage} can't have tiling {self.tiling.kind}")
        if self.mask and not self.classifies:
            raise ValueError("only a network that classifies or characterises takes a mask")
        if self.references and self.stage != "characterise":
            raise ValueError("only a network that characterises takes references")
        if self.references and self.intensity.kind not in ("clip", "none"):
            raise ValueError("references go with intensities that are the same in every scan: clip or none")
        refuse_repeats((reference.organ for reference in self.references), "reference")
        if self.after is not None and self.stage in ("classify", "characterise"):
            raise ValueError("only a network that gives a map can follow another")
        if isinstance(self.resampling, Spline) and self.tiling.kind in ("fixed", "centred"):
            raise ValueError("spline resampling goes with whole or patch")
        if isinstance(self.intensity, ZScore | Rescale) and not (self.normalise_first or self.sees_all):
            raise ValueError("an image's own mean, deviation or range is that of the whole scan: set normalise_first")
        return self

    @property
    def all_files(self) -> tuple[Name, ...]:
        """Every file that the network may need."""
        return tuple(chain(self.files, self.int8_files))
