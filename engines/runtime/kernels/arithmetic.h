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

ONESCAN_FUNCTION float clipped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

// Sum of weights times clipped source along one axis; `source` points at tap 0, its taps are `stride` elements apart.
template <typename T>
ONESCAN_FUNCTION float weighted(const T *source, Count stride, const AxisWeights &axis, Count row, float low, float high) {
    float sum = 0.0f;
    for (int32_t k = axis.starts[row]; k < axis.starts[row + 1]; ++k)
        sum = sum + axis.weights[k] * clipped(static_cast<float>(source[axis.taps[k] * stride]), low, high);
    return sum;
}

// HU -> network input, as engines.cascade.intensity.Normaliser.
ONESCAN_FUNCTION float normalised(float hu, float low, float high, float shift, float scale) {
    return (clipped(hu, low, high) - shift) * scale;
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

// Where the voxels of another grid lie along one axis of the ring: between first[j] and second[j], weight[j] of the way.
struct AxisTaps {
    const int32_t *first, *second;
    const float *weight;
};

// One voxel of another grid: the corners of its cell in two slices of the ring (of channel 0), the share of each corner
// in its slice, and the share of the further slice.
struct Cell {
    Count near[4], far[4];
    float shares[4], weight;
};

ONESCAN_FUNCTION Cell cell_of(const Ring &ring, int32_t width, const AxisTaps &along_z, Count z, const AxisTaps &along_y,
                              Count y, const AxisTaps &along_x, Count x) {
    const Count top = static_cast<Count>(along_y.first[y]) * width, bottom = static_cast<Count>(along_y.second[y]) * width;
    const Count corners[4] = {top + along_x.first[x], top + along_x.second[x], bottom + along_x.first[x],
                              bottom + along_x.second[x]};
    const float v = along_y.weight[y], u = along_x.weight[x];
    Cell cell = {{}, {}, {(1.0f - v) * (1.0f - u), (1.0f - v) * u, v * (1.0f - u), v * u}, along_z.weight[z]};
    for (int i = 0; i < 4; ++i) {
        cell.near[i] = ring_index(ring, 0, along_z.first[z], corners[i]);
        cell.far[i] = ring_index(ring, 0, along_z.second[z], corners[i]);
    }
    return cell;
}

// One channel at that voxel, in the order of sums of engines.cascade.labelmaps: within the slices, then between them.
// lead: what of the channel is interpolated is its lead over channel 0 (of two classes that is enough).
ONESCAN_FUNCTION float interpolated(const Ring &ring, int32_t channel, bool lead, const Cell &cell) {
    const float *sums = ring.sums + static_cast<Count>(channel) * ring.depth * ring.plane;
    float nearer = 0.0f, further = 0.0f;
    for (int i = 0; i < 4; ++i) {
        const float a = lead ? sums[cell.near[i]] - ring.sums[cell.near[i]] : sums[cell.near[i]];
        const float b = lead ? sums[cell.far[i]] - ring.sums[cell.far[i]] : sums[cell.far[i]];
        nearer = nearer + a * cell.shares[i];
        further = further + b * cell.shares[i];
    }
    return cell.weight == 0.0f ? nearer : (1.0f - cell.weight) * nearer + cell.weight * further;
}

// The channel with the largest value, the first of equals; value(channel, lead) gives it.
template <typename Value>
ONESCAN_FUNCTION uint8_t winner_of(int32_t channels, const Value &value) {
    if (channels == 2) return value(1, true) > 0.0f;
    int32_t winner = 0;
    float largest = value(0, false);
    for (int32_t c = 1; c < channels; ++c) {
        const float other = value(c, false);
        if (other > largest) {
            largest = other;
            winner = c;
        }
    }
    return static_cast<uint8_t>(winner);
}

}  // namespace onescan
