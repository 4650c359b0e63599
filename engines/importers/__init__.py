"""A trained network of somebody else's → a bundle: plain ONNX, MONAI bundles, nnU-Net folders. For model developers.

In goes a folder as its training framework left it; out comes a bundle (`engines.bundle`) that the cascade runs as that
framework would have run it. What can't be run faithfully is refused by name, never approximated. Nothing that a model
folder brings along is executed or unpickled. A bundle carries its precision in its files: fp32 as imported, int8 as a
second, explicitly quantised file (`quantise`); TensorRT's fp16 is made by `precision`.

Only `onescan-engines` calls this, never the appliance: the device has neither onnx nor torch.
"""

from __future__ import annotations

from core.errors import OneScanError


class ImportRefused(OneScanError):
    """A model can't become a bundle as it is: the sentence names the part that stands in the way, and why."""

    default_remedy = "Change or export the model as named here; nothing was written."
