// The kernels around a network: HU to its input, tiles, blending, and back to another grid. A thread a voxel; what a voxel
// is stands in arithmetic.h. Launched by engines/runtime/ring.py and slabs.py through engines/runtime/device.py.
//
// No kernel needs another thread's result, so tests run the very same text on a CPU, threads one after another.
#include "arithmetic.h"

using namespace onescan;

#define THREAD (static_cast<Count>(blockIdx.x) * blockDim.x + threadIdx.x)

// target (outer, length, inner) = source (outer, source_length, inner) resampled along its middle axis.
template <typename T>
__device__ void resample_axis(const T *source, const AxisWeights &axis, float *target, Count outer, Count length,
                              Count source_length, Count inner, int32_t add) {
    const Count i = THREAD;
    if (i >= outer * length * inner) return;
    const Count at_inner = i % inner, row = i / inner % length, at_outer = i / inner / length;
    const float sum = weighted(source + at_outer * source_length * inner + at_inner, inner, axis, row);
    target[i] = add ? target[i] + sum : sum;
}

extern "C" __global__ void resample_short(const int16_t *source, const int32_t *starts, const int32_t *taps,
                                          const float *weights, float *target, Count outer, Count length,
                                          Count source_length, Count inner, int32_t add) {
    resample_axis(source, AxisWeights{starts, taps, weights}, target, outer, length, source_length, inner, add);
}

extern "C" __global__ void resample_float(const float *source, const int32_t *starts, const int32_t *taps,
                                          const float *weights, float *target, Count outer, Count length,
                                          Count source_length, Count inner, int32_t add) {
    resample_axis(source, AxisWeights{starts, taps, weights}, target, outer, length, source_length, inner, add);
}

extern "C" __global__ void normalise(float *image, Count voxels, float low, float high, float mean, float scale) {
    const Count i = THREAD;
    if (i < voxels) image[i] = normalised(image[i], low, high, mean, scale);
}

// input (channels, size z, y, x) = a tile of region (channels, depth, height, width), `fill[channel]` where that is padding.
extern "C" __global__ void gather_tile(const float *region, const float *fill, float *input, int32_t channels,
                                       int32_t depth, int32_t height, int32_t width, TileAxis z, TileAxis y, TileAxis x) {
    const Count i = THREAD;
    if (i >= static_cast<Count>(channels) * z.size * y.size * x.size) return;
    const int32_t tx = static_cast<int32_t>(i % x.size), ty = static_cast<int32_t>(i / x.size % y.size);
    const int32_t tz = static_cast<int32_t>(i / x.size / y.size % z.size);
    const Count channel = i / x.size / y.size / z.size;
    const int32_t rz = inside(z, tz), ry = inside(y, ty), rx = inside(x, tx);
    const bool real = covers(z, rz) && covers(y, ry) && covers(x, rx);
    input[i] = real ? region[((channel * depth + z.start + rz) * height + y.start + ry) * width + x.start + rx]
                    : fill[channel];
}

// flags[0] becomes 1 if a value is NaN or infinite (or was never written), flags[1] if one is not zero.
extern "C" __global__ void inspect(const float *values, Count count, int32_t *flags) {
    const Count i = THREAD;
    if (i >= count) return;
    const float value = values[i];
    if (not_finite(value)) flags[0] = 1;  // many threads may write the same 1
    if (value != 0.0f) flags[1] = 1;
}

// ring (kept, depth, height, width) += `kept` channels of the activated logits (channels, size z, y, x) times the product
// of three axes' weights, divided by the number of a tile's runs.
extern "C" __global__ void blend_tile(const float *logits, const float *along_z, const float *along_y, const float *along_x,
                                      const int32_t *kept, float *sums, int32_t channels, int32_t kept_count,
                                      int32_t depth, int32_t height, int32_t width, TileAxis z, TileAxis y, TileAxis x,
                                      int32_t activation, float runs) {
    const Count i = THREAD;
    if (i >= static_cast<Count>(z.extent) * y.extent * x.extent) return;
    const int32_t rx = static_cast<int32_t>(i % x.extent), ry = static_cast<int32_t>(i / x.extent % y.extent);
    const int32_t rz = static_cast<int32_t>(i / x.extent / y.extent);
    const Ring ring = {sums, static_cast<Count>(height) * width, depth};
    const Count in_plane = static_cast<Count>(y.start + ry) * width + x.start + rx;
    const Count stride = static_cast<Count>(z.size) * y.size * x.size;
    const float *voxel =
        logits + (static_cast<Count>(at_input(z, rz)) * y.size + at_input(y, ry)) * x.size + at_input(x, rx);
    const Activation kind = static_cast<Activation>(activation);
    const SoftmaxTerms terms =
        kind == SOFTMAX && channels > 2 ? softmax_terms(voxel, stride, channels) : SoftmaxTerms{0.0f, 1.0f};
    const float weight = along_z[rz] * (along_y[ry] * (along_x[rx] / runs));
    for (int32_t k = 0; k < kept_count; ++k) {
        float *sum = sums + ring_index(ring, k, z.start + rz, in_plane);
        *sum = *sum + activated(voxel, stride, channels, kept[k], kind, terms) * weight;
    }
}

// rows (channels, count, plane) = slices first..first + count of the ring, which become zero for the slices to come.
extern "C" __global__ void drain(float *sums, float *rows, int32_t channels, int32_t depth, Count plane, int32_t first,
                                 int32_t count) {
    const Count i = THREAD;
    if (i >= static_cast<Count>(channels) * count * plane) return;
    const int32_t row = static_cast<int32_t>(i / plane % count), channel = static_cast<int32_t>(i / plane / count);
    const Ring ring = {sums, plane, depth};
    const Count at = ring_index(ring, channel, first + row, i % plane);
    rows[i] = sums[at];
    sums[at] = 0.0f;
}

// labels (slices, height, width) of another grid = the channel with the largest resampled sum; the first one of equals.
extern "C" __global__ void label_slab(const float *sums, int32_t channels, int32_t depth, Count plane, int32_t ring_width,
                                      const int32_t *starts_z, const int32_t *taps_z, const float *weights_z,
                                      const int32_t *starts_y, const int32_t *taps_y, const float *weights_y,
                                      const int32_t *starts_x, const int32_t *taps_x, const float *weights_x,
                                      uint8_t *labels, Count slices, Count height, Count width) {
    const Count i = THREAD;
    if (i >= slices * height * width) return;
    const Ring ring = {const_cast<float *>(sums), plane, depth};
    const AxisWeights z = {starts_z, taps_z, weights_z}, y = {starts_y, taps_y, weights_y}, x = {starts_x, taps_x, weights_x};
    const Count at_x = i % width, at_y = i / width % height, at_z = i / width / height;
    int32_t winner = 0;
    float largest = interpolated(ring, 0, ring_width, z, at_z, y, at_y, x, at_x);
    for (int32_t c = 1; c < channels; ++c) {
        const float value = interpolated(ring, c, ring_width, z, at_z, y, at_y, x, at_x);
        if (value > largest) {
            largest = value;
            winner = c;
        }
    }
    labels[i] = static_cast<uint8_t>(winner);
}

// values (slices, height, width) of another grid = the largest resampled sum among `wanted` channels.
extern "C" __global__ void peak_slab(const float *sums, const int32_t *wanted, int32_t wanted_count, int32_t depth,
                                     Count plane, int32_t ring_width, const int32_t *starts_z, const int32_t *taps_z,
                                     const float *weights_z, const int32_t *starts_y, const int32_t *taps_y,
                                     const float *weights_y, const int32_t *starts_x, const int32_t *taps_x,
                                     const float *weights_x, float *values, Count slices, Count height, Count width) {
    const Count i = THREAD;
    if (i >= slices * height * width) return;
    const Ring ring = {const_cast<float *>(sums), plane, depth};
    const AxisWeights z = {starts_z, taps_z, weights_z}, y = {starts_y, taps_y, weights_y}, x = {starts_x, taps_x, weights_x};
    const Count at_x = i % width, at_y = i / width % height, at_z = i / width / height;
    float largest = interpolated(ring, wanted[0], ring_width, z, at_z, y, at_y, x, at_x);
    for (int32_t w = 1; w < wanted_count; ++w)
        largest = fmaxf(largest, interpolated(ring, wanted[w], ring_width, z, at_z, y, at_y, x, at_x));
    values[i] = largest;
}
