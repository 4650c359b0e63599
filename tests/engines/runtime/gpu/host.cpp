// The kernels on a CPU: the very text of kernels.cu, its threads one after another. Each launch_<kernel> takes what
// cuLaunchKernel takes: a number of threads, and an array of pointers to the arguments.
#include <tuple>
#include <utility>

struct Dim {
    unsigned x, y, z;
};
static thread_local Dim blockIdx, threadIdx;
static const Dim blockDim = {256, 1, 1};

#define __global__
#define __device__
#include "kernels.cu"

template <typename... Arguments, size_t... I>
static void run(void (*kernel)(Arguments...), long long threads, void **pointers, std::index_sequence<I...>) {
    const std::tuple<Arguments...> arguments(*static_cast<Arguments *>(pointers[I])...);
    const long long blocks = (threads + blockDim.x - 1) / blockDim.x;
    for (long long block = 0; block < blocks; ++block)
        for (unsigned thread = 0; thread < blockDim.x; ++thread) {
            blockIdx.x = static_cast<unsigned>(block);
            threadIdx.x = thread;
            std::apply(kernel, arguments);
        }
}

template <typename... Arguments>
static void run(void (*kernel)(Arguments...), long long threads, int given, const int *sizes, void **pointers) {
    const int expected[] = {static_cast<int>(sizeof(Arguments))...};
    if (given != static_cast<int>(sizeof...(Arguments))) __builtin_trap();
    for (int i = 0; i < given; ++i)
        if (sizes[i] != expected[i]) __builtin_trap();  // as a GPU would misread it
    run(kernel, threads, pointers, std::index_sequence_for<Arguments...>());
}

#define ON_HOST(kernel)                                                                                         \
    extern "C" int launch_##kernel(long long threads, int given, const int *sizes, void **pointers) {           \
        run(kernel, threads, given, sizes, pointers);                                                            \
        return 0;                                                                                                \
    }

ON_HOST(resample_short)
ON_HOST(resample_float)
ON_HOST(normalise)
ON_HOST(gather_tile)
ON_HOST(inspect)
ON_HOST(blend_tile)
ON_HOST(drain)
ON_HOST(limit_slices)
ON_HOST(finish_rows)
ON_HOST(find_winners)
ON_HOST(label_slab)
ON_HOST(region_slab)
