"""Training of the reference bundle: phantoms in, three ONNX networks and their evidence out.

    rendering.py   phantoms at working spacing, cached on disk
    augment.py     what scanners, kernels and people do to images
    network.py     a plain 3D U-Net
    train.py       localiser, lung_lesion, liver_lesion; resumable; writes losses and seeds as JSON
    export.py      checkpoint → ONNX, checked against torch
    evaluate.py    thresholds on tuning seeds, evidence on other seeds
    pack.py        everything → engines/bundles/reference

Needs the extra `reference` (torch). Nothing that runs on the device imports this package.
"""
