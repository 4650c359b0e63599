"""What an nnU-Net v2 model folder says about itself (plans.json, dataset.json), as a manifest's `Network` says it.

Pure: text in, values out. Whatever would make a network behave otherwise here than under nnU-Net's own predictor is
refused by name. Formats: nnunetv2 2.8.1 and the older one whose configurations name a `UNet_class_name`
(`plans_handler.py`); rules of labels and regions: `label_handling.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.importers import ImportRefused
from engines.manifest import Axes, Clip, Intensity, Network, Raw, Rescale, Spline, Stage, ZScore

ARCHITECTURES = {
    "PlainConvUNet": "n_conv_per_stage",
    "ResidualEncoderUNet": "n_blocks_per_stage",
}
"""Networks that can be built here, and what their plans call the number of convolutions or blocks a stage."""
READER_AXES: Mapping[str, Axes] = {"NibabelIOWithReorient": "SAR", "SimpleITKIOWithReorient": "SAR"}
"""Readers that turn every image the same way, and where its z, y, x indices then grow to (RAS, read z first). Others
leave images as their files have them."""
_FUNCTION = "resample_data_or_seg_to_shape"
Three = tuple[float, float, float]
_Model = TypeVar("_Model", bound=BaseModel)


class _Read(BaseModel):
    """Base: fields that are not named don't matter here."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class ResamplingKwargs(_Read):
    """Arguments of nnU-Net's `resample_data_or_seg_to_shape`."""

    is_seg: bool = False
    order: Annotated[int, Field(ge=0, le=5)] = 3
    order_z: Annotated[int, Field(ge=0, le=1)] = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: float = 3.0


class Configuration(_Read):
    """One configuration of plans.json, inheritance resolved. Lengths along the network's own (transposed) axes."""

    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    preprocessor_name: str = "DefaultPreprocessor"
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: ResamplingKwargs
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: ResamplingKwargs
    previous_stage: str | None = None
    architecture: dict[str, Any] | None = None
    unet_class_name: str | None = Field(default=None, alias="UNet_class_name")
    unet_base_num_features: int | None = Field(default=None, alias="UNet_base_num_features")
    unet_max_num_features: int | None = None
    n_conv_per_stage_encoder: tuple[int, ...] = ()
    n_conv_per_stage_decoder: tuple[int, ...] = ()
    pool_op_kernel_sizes: tuple[tuple[int, ...], ...] = ()
    conv_kernel_sizes: tuple[tuple[int, ...], ...] = ()


class Foreground(_Read):
    """HU statistics of the training set's foreground."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class Plans(_Read):
    """plans.json."""

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    configurations: dict[str, dict[str, Any]]
    label_manager: str = "LabelManager"
    foreground: dict[str, Foreground] = Field(default_factory=dict, alias="foreground_intensity_properties_per_channel")

    def configuration(self, name: str, visited: tuple[str, ...] = ()) -> Configuration:
        """The configuration with what it inherits. ImportRefused: there is none of that name."""
        return _parsed(Configuration, self._resolved(name, visited), f"configuration {name}")

    def _resolved(self, name: str, visited: tuple[str, ...]) -> dict[str, Any]:
        if name not in self.configurations:
            raise ImportRefused(f"plans.json has no configuration {name}; it has {_words(self.configurations)}")
        if name in visited:
            raise ImportRefused(f"plans.json: {' inherits from '.join((*visited, name))}, in a circle")
        fields = self.configurations[name]
        parent = fields.get("inherits_from")
        return fields if parent is None else {**self._resolved(parent, (*visited, name)), **fields}


class Dataset(_Read):
    """dataset.json."""

    labels: dict[str, int | tuple[int, ...]]
    channel_names: dict[str, str] = Field(default_factory=dict)
    modality: dict[str, str] = Field(default_factory=dict)
    regions_class_order: tuple[int, ...] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the input channels."""
        return tuple((self.modality or self.channel_names).values())


@dataclass(frozen=True)
class Heads:
    """What the network's output channels are. values: what each writes into a label map. foreground: labels that enter
    the next stage one-hot."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    regions: bool
    foreground: tuple[int, ...]


def read_plans(raw: Mapping[str, Any]) -> Plans:
    """The parsed JSON of plans.json as `Plans`; ImportRefused names the field that is wrong."""
    fields = dict(raw)
    old = fields.pop("foreground_intensity_properties_by_modality", None)  # its name until 2.0
    fields.setdefault("foreground_intensity_properties_per_channel", old or {})
    plans = _parsed(Plans, fields, "plans.json")
    if plans.label_manager != "LabelManager":
        raise ImportRefused(f"plans.json names label manager {plans.label_manager}: only nnU-Net's own is known")
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        raise ImportRefused(f"plans.json: transpose_forward {plans.transpose_forward} is no order of three axes")
    return plans


def read_dataset(raw: Mapping[str, Any]) -> Dataset:
    """The parsed JSON of dataset.json as `Dataset`; ImportRefused names the field that is wrong."""
    dataset = _parsed(Dataset, raw, "dataset.json")
    if len(dataset.channels) != 1:
        raise ImportRefused(
            f"the network takes {len(dataset.channels)} images ({_words(dataset.channels)}); OneScan has one CT"
        )
    return dataset


def heads_of(dataset: Dataset) -> Heads:
    """Labels or regions in the order of the output channels; the ignore label has none."""
    labels = {name: _ints(value) for name, value in dataset.labels.items() if name != "ignore"}
    if labels.get("background") != (0,):
        raise ImportRefused("dataset.json: label background must be 0")
    every = sorted({value for values in labels.values() for value in values})
    if every != list(range(len(every))):
        raise ImportRefused(f"dataset.json: labels must be numbered without gaps, these are {_words(every)}")
    foreground = tuple(every[1:])
    if not any(len(values) > 1 for values in labels.values()):
        by_value = {values[0]: name for name, values in labels.items()}
        return Heads(_names(by_value[value] for value in every), tuple(every), False, foreground)
    regions = [name for name, values in labels.items() if set(values) != {0}]
    order = dataset.regions_class_order
    if order is None or len(order) != len(regions):
        raise ImportRefused(f"dataset.json: regions_class_order must give a value for each of {_words(regions)}")
    return Heads(_names(regions), order, True, foreground)


def architecture_of(configuration: Configuration, name: str) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of the network; ImportRefused where it is none of `ARCHITECTURES`."""
    if configuration.architecture is None:
        kind, arguments = str(configuration.unet_class_name), _old_arguments(configuration)
    else:
        kind = str(configuration.architecture.get("network_class_name", "")).rsplit(".", 1)[-1]
        arguments = dict(configuration.architecture.get("arch_kwargs", {}))
    if kind not in ARCHITECTURES:
        raise ImportRefused(f"{name} is a {kind or 'network without a name'}; known are {_words(ARCHITECTURES)}")
    missing = [
        word
        for word in ("n_stages", "features_per_stage", "kernel_sizes", "strides", ARCHITECTURES[kind])
        if word not in arguments
    ]
    if missing:
        raise ImportRefused(f"{name}: the architecture lacks {_words(missing)}")
    return kind, arguments


def network_of(
    plans: Plans,
    dataset: Dataset,
    name: str,
    *,
    network_id: str,
    stage: Stage,
    files: tuple[str, ...],
    mirror: tuple[int, ...],
    file_axes: Axes,
    after: str | None = None,
) -> Network:
    """A configuration as the manifest says it.

    files: one ONNX file a fold. mirror: the network's axes that it may be mirrored along. file_axes: where the z, y, x
    indices of the training images grew to as nnU-Net read them.
    """
    configuration, heads = plans.configuration(name), heads_of(dataset)
    check_runnable(configuration, name)
    if len(file_axes) != 3:
        raise ImportRefused(f"file axes {file_axes}: three letters are wanted, such as SPL")
    fields = {
        "id": network_id,
        "stage": stage,
        "files": files,
        "spacing_mm": configuration.spacing,
        "axes": "".join(file_axes[axis] for axis in plans.transpose_forward),
        "resampling": _resampling(configuration, name),
        "intensity": _intensity(configuration, plans, name),
        "normalise_first": True,
        "tiling": {
            "kind": "patch",
            "size": configuration.patch_size,
            "overlap": 0.5,
            "peak": "voxel",
            "pad": "zero_centred",
        },
        "mirror": tuple(letter for axis, letter in enumerate("zyx") if axis in mirror),
        "blend": "logits",
        "region": "volume",
        "after": after,
        "activation": "sigmoid" if heads.regions else "softmax",
        "labels": heads.names,
        "region_order": heads.values if heads.regions else (),
    }
    return _parsed(Network, fields, name)


def check_runnable(configuration: Configuration, name: str) -> None:
    """ImportRefused where the configuration is not three-dimensional or not preprocessed as known here."""
    if len(configuration.patch_size) != 3 or len(configuration.spacing) != 3:
        raise ImportRefused(f"{name} is a 2D configuration: slices one by one are not run here; import a 3D one")
    if configuration.preprocessor_name != "DefaultPreprocessor":
        raise ImportRefused(f"{name} is preprocessed by {configuration.preprocessor_name}: only nnU-Net's own is known")
    for function in (configuration.resampling_fn_data, configuration.resampling_fn_probabilities):
        if function != _FUNCTION:
            raise ImportRefused(f"{name} is resampled by {function}: only {_FUNCTION} is known")


def _resampling(configuration: Configuration, name: str) -> Spline:
    image, logits = configuration.resampling_fn_data_kwargs, configuration.resampling_fn_probabilities_kwargs
    shared = ("force_separate_z", "separate_z_anisotropy_threshold")
    if any(getattr(image, field) != getattr(logits, field) for field in shared):
        raise ImportRefused(f"{name} separates the coarse axis of image and logits by different rules")
    if logits.order > 1:
        raise ImportRefused(f"{name} resamples logits with order {logits.order}: 0 and 1 are known")
    return Spline(
        order=image.order,
        logits_order=logits.order,
        order_z=image.order_z,
        logits_order_z=logits.order_z,
        separate_z={None: "auto", True: "always", False: "never"}[image.force_separate_z],
        anisotropy=image.separate_z_anisotropy_threshold,
    )


def _intensity(configuration: Configuration, plans: Plans, name: str) -> Intensity:
    scheme = configuration.normalization_schemes[0]
    if scheme == "CTNormalization":
        if "0" not in plans.foreground:
            raise ImportRefused(f"{name}: CTNormalization, but plans.json has no intensities of channel 0")
        seen = plans.foreground["0"]
        return Clip(
            clip_low_hu=seen.percentile_00_5,
            clip_high_hu=seen.percentile_99_5,
            mean_hu=seen.mean,
            std_hu=max(seen.std, 1e-8),
        )
    if scheme == "ZScoreNormalization":
        if configuration.use_mask_for_norm[0]:
            raise ImportRefused(f"{name} normalises within the mask of voxels that are not 0: no such mask for a CT")
        return ZScore()
    if scheme == "RescaleTo01Normalization":
        return Rescale()
    if scheme == "NoNormalization":
        return Raw()
    raise ImportRefused(f"{name} is normalised by {scheme}, which is not known here")


def _old_arguments(configuration: Configuration) -> dict[str, Any]:
    """Arguments as newer plans write them, of plans from before nnunetv2 2.4 (`plans_handler.py` does the same)."""
    stages = len(configuration.n_conv_per_stage_encoder)
    base, most = configuration.unet_base_num_features, configuration.unet_max_num_features
    if not stages or base is None or most is None:
        return {}
    return {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
        "kernel_sizes": configuration.conv_kernel_sizes,
        "strides": configuration.pool_op_kernel_sizes,
        ARCHITECTURES.get(
            str(configuration.unet_class_name), "n_conv_per_stage"
        ): configuration.n_conv_per_stage_encoder,
        "n_conv_per_stage_decoder": configuration.n_conv_per_stage_decoder,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _names(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels as a manifest's words; ImportRefused where two become the same one."""
    names: dict[str, str] = {}
    for label in labels:
        word = re.sub(r"[^a-z0-9._-]+", "-", label.lower()).strip("._-")[:63]
        if not word:
            raise ImportRefused(f"dataset.json: label {label!r} has no letter or digit")
        if word in names:
            raise ImportRefused(f"dataset.json: labels {names[word]!r} and {label!r} are both {word} in a manifest")
        names[word] = label
    return tuple(names)


def _ints(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


def _words(items: Iterable[object]) -> str:
    return ", ".join(map(str, items)) or "none"


def _parsed(kind: type[_Model], fields: Mapping[str, Any], where: str) -> _Model:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "content"
        raise ImportRefused(f"{where}: {field}: {first['msg']}") from error
