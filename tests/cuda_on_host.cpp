// CUDA kernels as host code: a fiber for each thread of a block, block after block.
// A fiber gives way to the next one at every barrier and shuffle, so that the lanes of
// a warp stay in step; the values of two successive shuffles lie in two slots.  A fiber
// is entered by setcontext and from then on by _longjmp, which calls no kernel of the
// system: the tests of GPUs take a third of the time.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

struct dim3 { int x, y, z; };
struct float4 { float x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static dim3 threadIdx, blockIdx, blockDim, gridDim;

static const int stack_bytes = 1 << 16;
static std::vector<jmp_buf> places;  // where the fibers gave way
static jmp_buf scheduler;
static int n_alive, n_waiting, n_barriers;
static std::vector<bool> ended;
static std::vector<int> n_shuffles;
static std::vector<float> slots[2];

static void give_way()
{
    if (!_setjmp(places[threadIdx.x])) _longjmp(scheduler, 1);
}

static void __syncthreads()
{
    const int mine = n_barriers;
    if (++n_waiting == n_alive) {
        n_waiting = 0;
        ++n_barriers;
    }
    while (mine == n_barriers) give_way();
}

static void __syncwarp() { give_way(); }

static float __shfl_xor_sync(unsigned, float value, int mask)
{
    const int me = threadIdx.x;
    std::vector<float>& slot = slots[n_shuffles[me]++ % 2];
    slot[me] = value;
    give_way();
    return slot[me ^ mask];
}

#define __device__ static
#define __global__
#define __shared__
#define __restrict__
#include KERNELS
float tile[1 << 16];

static void (*body)(void* state);
static void* state;

static void run_fiber()
{
    const int me = threadIdx.x;
    body(state);
    ended[me] = true;
    if (--n_alive && n_waiting == n_alive) {
        n_waiting = 0;
        ++n_barriers;
    }
    _longjmp(scheduler, 1);
}

static void run_block()
{
    const int n = blockDim.x;
    static std::vector<char> stacks;
    stacks.resize((size_t)n * stack_bytes);
    places = std::vector<jmp_buf>(n);
    ended.assign(n, false);
    n_shuffles.assign(n, 0);
    for (auto& slot : slots) slot.assign(n, 0.0f);
    n_alive = n;
    n_waiting = n_barriers = 0;
    ucontext_t fiber;
    getcontext(&fiber);
    fiber.uc_stack.ss_size = stack_bytes;
    for (int i = 0; i < n; ++i) {
        fiber.uc_stack.ss_sp = &stacks[(size_t)i * stack_bytes];
        makecontext(&fiber, run_fiber, 0);
        threadIdx = {i, 0, 0};
        if (!_setjmp(scheduler)) setcontext(&fiber);
    }
    while (n_alive)
        for (int i = 0; i < n; ++i)
            if (!ended[i]) {
                threadIdx = {i, 0, 0};
                if (!_setjmp(scheduler)) _longjmp(places[i], 1);
            }
}

// Arguments as cuLaunchKernel takes them: a pointer to each.
template <class... A, size_t... I>
static void launch(void (*kernel)(A...), void** args, const int* grid, int block,
                   std::index_sequence<I...>)
{
    auto call = [&] { kernel(*(A*)args[I]...); };
    body = [](void* f) { (*(decltype(call)*)f)(); };
    state = &call;
    gridDim = {grid[0], grid[1], 1};
    blockDim = {block, 1, 1};
    for (int y = 0; y < grid[1]; ++y)
        for (int x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, 0};
            run_block();
        }
}

template <class... A>
static void launch(void (*kernel)(A...), void** args, const int* grid, int block)
{
    launch(kernel, args, grid, block, std::index_sequence_for<A...>());
}

#define ENTRY(kernel)                                                      \
    extern "C" void host_##kernel(void** args, const int* grid, int block) \
    {                                                                      \
        launch(kernel, args, grid, block);                                 \
    }
ENTRY(score_rows)
ENTRY(list_entries)
ENTRY(update)
ENTRY(search)
ENTRY(merge_lists)
