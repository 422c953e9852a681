// Grids on the processor: the threads of a block take turns, on stacks of their own.

#pragma once

#include "host.h"

#include <csetjmp>
#include <functional>
#include <ucontext.h>
#include <vector>

// The threads of a block: each hands over at barriers. Which comes first changes from
// barrier to barrier, so that a barrier that is missing shows.
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

    static inline Block *running = nullptr;

  private:
    static constexpr size_t STACK_BYTES = 64 << 10;
    struct Thread {
        std::vector<unsigned char> stack;
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

void __syncthreads() { Block::running->wait(); }

// Calls a kernel that has barriers for every thread of a grid. All blocks have as many.
inline void run_grid(Dim grid, unsigned n_threads, const std::function<void()> &kernel) {
    static Block block(n_threads);
    Block::running = &block;
    gridDim = grid;
    blockDim = {n_threads, 1};
    for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = {x, y};
            block.run(kernel);
        }
    }
}

// Calls a kernel without barriers, whose one thread takes what all would have taken.
inline void run_alone(const std::function<void()> &kernel) {
    gridDim = {1, 1};
    blockDim = {1, 1};
    blockIdx = threadIdx = {0, 0};
    kernel();
}
