"""How close a bundle runs to what the machine can do, what it takes in memory, and what a change changes.

    graphs       ONNX: multiply-adds of a network, and a network that is nothing but matrix products
    watching     a runtime that notes which networks ran on which tiles
    speed        the cascade, the plain loop over the same tiles, matrix products: interleaved
    memory       peak memory of a process; bytes per voxel of each network, in a process of its own
    comparing    two bundles, or one on two runtimes: verdicts, scores, masks, organs, times

For `onescan-engines bench` and `compare`, and for `bench/engines.py`. Nothing here runs on a device by itself.
"""
