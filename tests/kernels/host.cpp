// Runs batches on the processor, with the kernels' own source. Reads requests from
// standard input until it ends, and answers each on standard output. A request is
//
//     address of the buffer that is sent, its length; address and length of the other;
//     begin and end of what is cleared; bytes to fetch; number of launches; whether inputs
//     and outputs are to lie at odd addresses; bytes that are sent
//     for each launch: kernel, columns, rows, 5 parameters
//     what is sent
//
// all numbers of 8 bytes. Buffers are mapped at the addresses that the tables name.

#include "host.h"

#include "combine.cu"
#include "gram.cu"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <csetjmp>
#include <functional>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

static void fail(const char *what) {
    std::perror(what);
    std::exit(1);
}

static bool take(void *to, size_t bytes) {
    size_t n = std::fread(to, 1, bytes, stdin);
    if (n != bytes && (n != 0 || !std::feof(stdin))) {
        fail("the request ends too early");
    }
    return n == bytes;
}

static void *map(u64 address, u64 bytes) {
    void *at = mmap((void *)address, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != (void *)address) {
        fail("a buffer cannot be mapped where the device would have it");
    }
    return at;
}

// The threads of a block: each has a stack, and hands over at barriers. Which comes first
// changes from barrier to barrier, so that a barrier that is missing shows.
class Block {
  public:
    explicit Block(unsigned n_threads) : threads(n_threads) {
        for (Thread &thread : threads) {
            thread.stack.resize(STACK_BYTES);
        }
    }

    void run(const std::function<void()> &call) {
        kernel = &call;
        n_left = threads.size();
        for (Thread &thread : threads) {
            thread.has_begun = thread.has_ended = false;
        }
        for (unsigned round = 0; n_left > 0; round++) {
            for (unsigned k = 0; k < threads.size(); k++) {
                resume(round % 2 == 0 ? k : threads.size() - 1 - k);
            }
        }
    }

    void wait() {
        if (!_setjmp(threads[current].place)) {
            _longjmp(home, 1);
        }
    }

    static Block *running;

  private:
    static constexpr size_t STACK_BYTES = 64 << 10;
    struct Thread {
        std::vector<u8> stack;
        ucontext_t context;
        jmp_buf place;
        bool has_begun, has_ended;
    };

    void resume(unsigned index) {
        Thread &thread = threads[index];
        if (thread.has_ended) {
            return;
        }
        current = index;
        threadIdx = {index, 0};
        if (_setjmp(home)) {
            return;
        }
        if (thread.has_begun) {
            _longjmp(thread.place, 1);
        }
        thread.has_begun = true;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, enter, 0);
        setcontext(&thread.context);
    }

    static void enter() {
        Block &block = *running;
        (*block.kernel)();
        block.threads[block.current].has_ended = true;
        block.n_left--;
        _longjmp(block.home, 1);
    }

    std::vector<Thread> threads;
    const std::function<void()> *kernel = nullptr;
    jmp_buf home;
    unsigned current = 0;
    size_t n_left = 0;
};

Block *Block::running = nullptr;

void __syncthreads() { Block::running->wait(); }

// Calls `kernel` for every thread of a grid.
static void run(Dim grid, unsigned n_threads, const std::function<void()> &kernel) {
    static Block block(THREADS);
    gridDim = grid;
    blockDim = {n_threads, 1};
    for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = {x, y};
            threadIdx = {0, 0};
            if (n_threads == 1) {
                kernel();
            } else {
                Block::running = &block;
                block.run(kernel);
            }
        }
    }
}

// Inputs and outputs of a batch at odd addresses.
struct Odd {
    std::vector<std::vector<u8>> room;
    // Where outputs belong, and where they are.
    std::vector<std::pair<u8 *, u8 *>> outputs;
    std::vector<size_t> lengths;

    u8 *take(size_t bytes) {
        room.emplace_back(bytes + 2);
        u8 *begin = room.back().data();
        return (u64)begin % 2 == 1 ? begin : begin + 1;
    }

    void move(Tile *tiles, u64 n_tiles, u64 n_ingredients) {
        for (u64 t = 0; t < n_tiles; t++) {
            Operand *operands = (Operand *)tiles[t].operands;
            for (u64 i = 0; i < n_ingredients; i++) {
                size_t bytes = tiles[t].n_elements * width_of((u32)operands[i].dtype);
                u8 *at = take(bytes);
                std::memcpy(at, (const u8 *)operands[i].address, bytes);
                operands[i].address = (u64)at;
            }
            if (tiles[t].kind & KIND_WRITES) {
                size_t bytes = tiles[t].n_elements * width_of(tiles[t].out_dtype);
                u8 *at = take(bytes);
                outputs.emplace_back((u8 *)tiles[t].out, at);
                lengths.push_back(bytes);
                tiles[t].out = (u64)at;
            }
        }
    }

    void move_back() {
        for (size_t index = 0; index < outputs.size(); index++) {
            std::memcpy(outputs[index].first, outputs[index].second, lengths[index]);
        }
    }
};

int main() {
    struct Request {
        u64 to, to_bytes, from, from_bytes, clear_begin, clear_end, fetched, n_launches, is_odd, sent;
    } request;
    struct Launch {
        u64 kernel, columns, rows, p[5];
    };
    while (take(&request, sizeof request)) {
        std::vector<Launch> launches(request.n_launches);
        take(launches.data(), launches.size() * sizeof(Launch));
        u8 *to = (u8 *)map(request.to, request.to_bytes);
        u8 *from = (u8 *)map(request.from, request.from_bytes);
        take(to, request.sent);
        // Nothing may be left of what was there.
        std::memset(from, 0xaa, request.fetched);
        std::memset(from + request.clear_begin, 0, request.clear_end - request.clear_begin);
        Odd odd;
        if (request.is_odd && !launches.empty()) {
            // The first launch is a combination: it names the tiles and the weights.
            const u64 *p = launches[0].p;
            odd.move((Tile *)p[0], p[1], ((const Weights *)p[2])->n_ingredients);
        }
        for (const Launch &launch : launches) {
            Dim grid = {(unsigned)launch.columns, (unsigned)launch.rows};
            const u64 *p = launch.p;
            const Tile *tiles = (const Tile *)p[0];
            switch (launch.kernel) {
            case 0:
                run({1, 1}, 1, [&] { combine(tiles, p[1], (const Weights *)p[2]); });
                break;
            case 1:
                run({1, 1}, 1, [&] { combine_exact(tiles, p[1], (const Weights *)p[2]); });
                break;
            case 2:
                run(grid, THREADS, [&] {
                    gram_pieces(tiles, (const Piece *)p[1], p[2], p[3], (double *)p[4]);
                });
                break;
            case 3:
                run({1, 1}, 1, [&] { gram_tiles(tiles, p[1], p[2], (const double *)p[3]); });
                break;
            default:
                fail("no such kernel");
            }
        }
        odd.move_back();
        std::fwrite(from, 1, request.fetched, stdout);
        std::fflush(stdout);
        munmap(to, request.to_bytes);
        munmap(from, request.from_bytes);
    }
    return 0;
}
