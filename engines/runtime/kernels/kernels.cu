// The kernels around a network: HU to its input, tiles, blending, and back to another grid. A thread a voxel; what a voxel
// is stands in arithmetic.h. Launched by engines/runtime/{images,slabs,ring,sums,labelling}.py through device.py there.
//
// No kernel needs another thread's result, so tests run the very same text on a CPU, threads one after another.
#include "arithmetic.h"

using namespace onescan;

#define THREAD (static_cast<Count>(blockIdx.x) * blockDim.x + threadIdx.x)

// target (outer, length, inner) = source (outer, source_length, inner) resampled along its middle axis, its
// values clipped to low..high before.
template <typename T>
__device__ void resample_axis(const T *source, const AxisWeights &axis, float *target, Count outer, Count length,
                              Count source_length, Count inner, int32_t add, float low, float high) {
    const Count i = THREAD;
    if (i >= outer * length * inner) return;
    const Count at_inner = i % inner, row = i / inner % length, at_outer = i / inner / length;
    const float sum = weighted(source + at_outer * source_length * inner + at_inner, inner, axis, row, low, high);
    target[i] = add ? target[i] + sum : sum;
}

extern "C" __global__ void resample_short(const int16_t *source, const int32_t *starts, const int32_t *taps,
                                          const float *weights, float *target, Count outer, Count length,
                                          Count source_length, Count inner, int32_t add, float low, float high) {
    resample_axis(source, AxisWeights{starts, taps, weights}, target, outer, length, source_length, inner, add, low,
                  high);
}

extern "C" __global__ void resample_float(const float *source, const int32_t *starts, const int32_t *taps,
                                          const float *weights, float *target, Count outer, Count length,
                                          Count source_length, Count inner, int32_t add, float low, float high) {
    resample_axis(source, AxisWeights{starts, taps, weights}, target, outer, length, source_length, inner, add, low,
                  high);
}

extern "C" __global__ void normalise(float *image, Count voxels, float low, float high, float shift, float scale) {
    const Count i = THREAD;
    if (i < voxels) image[i] = normalised(image[i], low, high, shift, scale);
}

// values (slices, plane), each slice clipped to its own limits (slices, 2).
extern "C" __global__ void limit_slices(float *values, const float *limits, Count slices, Count plane) {
    const Count i = THREAD;
    if (i < slices * plane) values[i] = clipped(values[i], limits[2 * (i / plane)], limits[2 * (i / plane) + 1]);
}

// input (channels, size z, y, x) = a tile of a region whose neighbours are so many elements apart along each axis,
// `fill[channel]` where that is padding.
extern "C" __global__ void gather_tile(const float *region, const float *fill, float *input, int32_t channels,
                                       Count stride_channel, Count stride_z, Count stride_y, Count stride_x, TileAxis z,
                                       TileAxis y, TileAxis x) {
    const Count i = THREAD;
    if (i >= static_cast<Count>(channels) * z.size * y.size * x.size) return;
    const int32_t tx = static_cast<int32_t>(i % x.size), ty = static_cast<int32_t>(i / x.size % y.size);
    const int32_t tz = static_cast<int32_t>(i / x.size / y.size % z.size);
    const Count channel = i / x.size / y.size / z.size;
    const int32_t rz = inside(z, tz), ry = inside(y, ty), rx = inside(x, tx);
    const bool real = covers(z, rz) && covers(y, ry) && covers(x, rx);
    const Count at = channel * stride_channel + (z.start + rz) * stride_z + (y.start + ry) * stride_y +
                     (x.start + rx) * stride_x;
    input[i] = real ? region[at] : fill[channel];
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
// of three axes' weights, divided by the number of a tile's runs, and at least `floor`. weight_sums (depth, height, width):
// null, or where those weights are summed up.
extern "C" __global__ void blend_tile(const float *logits, const float *along_z, const float *along_y, const float *along_x,
                                      const int32_t *kept, float *sums, float *weight_sums, int32_t channels,
                                      int32_t kept_count, int32_t depth, int32_t height, int32_t width, TileAxis z, TileAxis y, TileAxis x,
                                      int32_t activation, float runs, float floor) {
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
    const float weight = fmaxf(along_z[rz] * (along_y[ry] * (along_x[rx] / runs)), floor);
    if (weight_sums != nullptr) {
        float *sum = weight_sums + ring_index(ring, 0, z.start + rz, in_plane);
        *sum = *sum + weight;
    }
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

// Slices first..first + count of the ring have all their tiles: divided by the sum of their weights (unless that is null),
// which become zero for the slices to come, and activated in place.
extern "C" __global__ void finish_rows(float *sums, float *weight_sums, int32_t channels, int32_t depth, Count plane,
                                       int32_t first, int32_t count, int32_t activation) {
    const Count i = THREAD;
    if (i >= count * plane) return;
    const Ring ring = {sums, plane, depth};
    const Count at = ring_index(ring, 0, first + static_cast<int32_t>(i / plane), i % plane);
    const Count stride = depth * plane;
    float *voxel = sums + at;
    if (weight_sums != nullptr) {
        const float weight = weight_sums[at];
        weight_sums[at] = 0.0f;
        for (int32_t c = 0; weight > 0.0f && c < channels; ++c) voxel[c * stride] = voxel[c * stride] / weight;
    }
    const Activation kind = static_cast<Activation>(activation);
    if (kind == RAW) return;
    if (kind == SOFTMAX && channels == 2) {  // each needs the other's logit
        const float lead = voxel[stride] - voxel[0];
        voxel[0] = sigmoid(-lead);
        voxel[stride] = sigmoid(lead);
        return;
    }
    const SoftmaxTerms terms = kind == SOFTMAX ? softmax_terms(voxel, stride, channels) : SoftmaxTerms{0.0f, 1.0f};
    for (int32_t c = 0; c < channels; ++c) voxel[c * stride] = activated(voxel, stride, channels, c, kind, terms);
}

// winners (depth, plane), slices first..first + count = the channel with the largest sum.
extern "C" __global__ void find_winners(const float *sums, uint8_t *winners, int32_t channels, int32_t depth, Count plane,
                                        int32_t first, int32_t count) {
    const Count i = THREAD;
    if (i >= count * plane) return;
    const Ring ring = {const_cast<float *>(sums), plane, depth};
    const Count at = ring_index(ring, 0, first + static_cast<int32_t>(i / plane), i % plane);
    const float *voxel = sums + at;
    winners[at] = winner_of(channels, [=](int32_t channel, bool lead) {
        const float value = voxel[channel * (depth * plane)];
        return lead ? value - voxel[0] : value;
    });
}

// labels (slices, height, width) of another grid = the channel with the largest interpolated value. Where one channel wins
// at all corners of a cell it wins inside: only the surfaces of things are interpolated.
extern "C" __global__ void label_slab(const float *sums, const uint8_t *winners, int32_t channels, int32_t depth,
                                      Count plane, int32_t ring_width, const int32_t *first_z, const int32_t *second_z,
                                      const float *weight_z, const int32_t *first_y, const int32_t *second_y,
                                      const float *weight_y, const int32_t *first_x, const int32_t *second_x,
                                      const float *weight_x, uint8_t *labels, Count slices, Count height, Count width) {
    const Count i = THREAD;
    if (i >= slices * height * width) return;
    const Ring ring = {const_cast<float *>(sums), plane, depth};
    const AxisTaps z = {first_z, second_z, weight_z}, y = {first_y, second_y, weight_y}, x = {first_x, second_x, weight_x};
    const Cell cell = cell_of(ring, ring_width, z, i / width / height, y, i / width % height, x, i % width);
    const uint8_t first = winners[cell.near[0]];
    bool agreed = true;
    for (int c = 0; c < 4; ++c) agreed = agreed && winners[cell.near[c]] == first && winners[cell.far[c]] == first;
    labels[i] = agreed ? first : winner_of(channels, [&](int32_t channel, bool lead) {
        return interpolated(ring, channel, lead, cell);
    });
}

// The same where each channel that is above the threshold writes its number, later channels over earlier ones.
extern "C" __global__ void region_slab(const float *sums, const int32_t *order, int32_t channels, int32_t depth,
                                       Count plane, int32_t ring_width, const int32_t *first_z, const int32_t *second_z,
                                       const float *weight_z, const int32_t *first_y, const int32_t *second_y,
                                       const float *weight_y, const int32_t *first_x, const int32_t *second_x,
                                       const float *weight_x, uint8_t *labels, Count slices, Count height, Count width,
                                       float threshold) {
    const Count i = THREAD;
    if (i >= slices * height * width) return;
    const Ring ring = {const_cast<float *>(sums), plane, depth};
    const AxisTaps z = {first_z, second_z, weight_z}, y = {first_y, second_y, weight_y}, x = {first_x, second_x, weight_x};
    const Cell cell = cell_of(ring, ring_width, z, i / width / height, y, i / width % height, x, i % width);
    int32_t label = 0;
    for (int32_t c = 0; c < channels; ++c)
        if (interpolated(ring, c, false, cell) > threshold) label = order[c];
    labels[i] = static_cast<uint8_t>(label);
}
