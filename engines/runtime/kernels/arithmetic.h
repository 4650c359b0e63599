// What the kernels compute, one voxel at a time. Plain functions, so that the same lines compile for the GPU (nvcc) and
// for the CPU (any C++17 compiler); the tests compare the CPU's with the NumPy code of engines/cascade.
//
// All sums are in float32 and in the order of the NumPy twin. Compile without contraction into fused multiply-adds
// (nvcc --fmad=false, g++ -ffp-contract=off): then GPU and CPU agree in every bit wherever no exp or tanh is involved. The
// kernels wait for memory, not for arithmetic, so that costs nothing.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define ONESCAN_FUNCTION __host__ __device__ __forceinline__
#else
#define ONESCAN_FUNCTION inline
#endif

namespace onescan {

using Count = long long;  // voxels of a volume with many channels may be more than 2^31

enum Activation { RAW = 0, SOFTMAX = 1, SIGMOID = 2 };

// ------------------------------------------------------------------------------------- resampling along one axis

// Weights along one axis as a sparse matrix by rows (scipy's csr): row j is taps[starts[j]..starts[j + 1]].
struct AxisWeights {
    const int32_t *starts;
    const int32_t *taps;
    const float *weights;
};

// Sum of weights times source along one axis; `source` points at tap 0, its taps are `stride` elements apart.
template <typename T>
ONESCAN_FUNCTION float weighted(const T *source, Count stride, const AxisWeights &axis, Count row) {
    float sum = 0.0f;
    for (int32_t k = axis.starts[row]; k < axis.starts[row + 1]; ++k)
        sum = sum + axis.weights[k] * static_cast<float>(source[axis.taps[k] * stride]);
    return sum;
}

// HU -> network input, as engines.cascade.preprocess.normalise. scale: 1 / standard deviation.
ONESCAN_FUNCTION float normalised(float hu, float low, float high, float mean, float scale) {
    const float clipped = fminf(fmaxf(hu, low), high);
    return (clipped - mean) * scale;
}

// ------------------------------------------------------------------------------------- tiles

// One axis of a tile on a region. size: the network's input; extent: voxels of it that lie in the region, beginning
// `before` voxels into the input and at `start` in the region; what is left of the input is padding.
struct TileAxis {
    int32_t size, before, extent, start, flipped;
};

// Where input voxel t lies among the tile's voxels of the region; outside 0..extent: padding.
ONESCAN_FUNCTION int32_t inside(const TileAxis &axis, int32_t t) {
    return (axis.flipped ? axis.size - 1 - t : t) - axis.before;
}

// The inverse: at which input voxel the tile's voxel i was given to the network.
ONESCAN_FUNCTION int32_t at_input(const TileAxis &axis, int32_t i) {
    const int32_t t = i + axis.before;
    return axis.flipped ? axis.size - 1 - t : t;
}

ONESCAN_FUNCTION bool covers(const TileAxis &axis, int32_t i) { return i >= 0 && i < axis.extent; }

// ------------------------------------------------------------------------------------- logits

ONESCAN_FUNCTION float sigmoid(float x) {
    return 0.5f * (1.0f + tanhf(0.5f * x));  // tanh never overflows
}

// What softmax needs of one voxel's logits, channels `stride` elements apart: their maximum, and the sum of exponentials.
struct SoftmaxTerms {
    float largest, sum;
};

ONESCAN_FUNCTION SoftmaxTerms softmax_terms(const float *logits, Count stride, int32_t channels) {
    SoftmaxTerms terms = {logits[0], 0.0f};
    for (int32_t c = 1; c < channels; ++c) terms.largest = fmaxf(terms.largest, logits[c * stride]);
    for (int32_t c = 0; c < channels; ++c) terms.sum = terms.sum + expf(logits[c * stride] - terms.largest);
    return terms;
}

// One channel of one voxel's logits, as engines.runtime.host.activated makes it. terms: for softmax over more than two.
ONESCAN_FUNCTION float activated(const float *logits, Count stride, int32_t channels, int32_t channel,
                                 Activation activation, const SoftmaxTerms &terms) {
    const float logit = logits[channel * stride];
    if (activation == SIGMOID) return sigmoid(logit);
    if (activation == SOFTMAX && channels == 2) return sigmoid(logit - logits[(1 - channel) * stride]);
    if (activation == SOFTMAX) return expf(logit - terms.largest) / terms.sum;
    return logit;
}

// NaN or infinity. Looks at the bits: a compiler told to be fast may drop comparisons of NaN.
ONESCAN_FUNCTION bool not_finite(float value) {
    union {
        float number;
        uint32_t bits;
    } look = {value};
    return (look.bits & 0x7f800000u) == 0x7f800000u;
}

// ------------------------------------------------------------------------------------- the ring

// Sums (channels, depth, plane) of which slice z of the region lies at z % depth: only the slices that tiles still touch.
struct Ring {
    float *sums;
    Count plane;
    int32_t depth;
};

ONESCAN_FUNCTION Count ring_index(const Ring &ring, int32_t channel, int32_t z, Count in_plane) {
    return (static_cast<Count>(channel) * ring.depth + z % ring.depth) * ring.plane + in_plane;
}

// One channel of the ring resampled to one voxel of another grid: z first, then y, then x, as
// engines.cascade.preprocess.interpolate does. width: voxels of a row of the ring.
ONESCAN_FUNCTION float interpolated(const Ring &ring, int32_t channel, int32_t width, const AxisWeights &along_z, Count z,
                                    const AxisWeights &along_y, Count y, const AxisWeights &along_x, Count x) {
    float value = 0.0f;
    for (int32_t i = along_x.starts[x]; i < along_x.starts[x + 1]; ++i) {
        float row = 0.0f;
        for (int32_t j = along_y.starts[y]; j < along_y.starts[y + 1]; ++j) {
            const Count in_plane = static_cast<Count>(along_y.taps[j]) * width + along_x.taps[i];
            float column = 0.0f;
            for (int32_t k = along_z.starts[z]; k < along_z.starts[z + 1]; ++k)
                column = column + along_z.weights[k] * ring.sums[ring_index(ring, channel, along_z.taps[k], in_plane)];
            row = row + along_y.weights[j] * column;
        }
        value = value + along_x.weights[i] * row;
    }
    return value;
}

}  // namespace onescan
