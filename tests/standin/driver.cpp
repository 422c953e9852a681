// A stand-in for libcuda.so: the calls that this program makes, on the processor, with the
// kernels' own source. What is put on a stream is done when somebody waits for it, and no
// earlier: results that are looked at before are not there.
//
//     STANDIN_PLACE=odd|even  inputs and outputs of a combination begin at odd addresses, or at
//                             multiples of 16, each with a guard behind it; else where they are
//     STANDIN_CAPABILITY=7    major compute capability, else 8
//     STANDIN_DEVICES=2       devices, else 1
//     STANDIN_MEMORY=1000     bytes of each device, else 8 GiB
//     STANDIN_FAIL=NAME:3:700 the third call of NAME fails with this status, and so does
//                             every later call of anything that fails on a lost device

#include "block.h"

#include "combine.cu"
#include "gram.cu"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>

namespace {

enum Status { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };

std::mutex lock;
u64 used = 0;
int lost = OK;

u64 setting(const char *name, u64 otherwise) {
    const char *text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

bool is_placed(const char *place) {
    const char *text = std::getenv("STANDIN_PLACE");
    return text && !std::strcmp(text, place);
}

// The status of a call of this name: OK, or what was asked for.
int status_of(const char *name) {
    static std::atomic<u64> n_calls{0};
    const char *text = std::getenv("STANDIN_FAIL");
    if (lost) {
        return lost;
    }
    if (!text) {
        return OK;
    }
    std::string asked(text);
    size_t first = asked.find(':'), second = asked.find(':', first + 1);
    if (asked.substr(0, first) != name) {
        return OK;
    }
    if (++n_calls != std::strtoull(asked.c_str() + first + 1, nullptr, 10)) {
        return OK;
    }
    lost = std::atoi(asked.c_str() + second + 1);
    return lost;
}

// A guard lies behind every buffer, so that what reads or writes past its end is killed.
constexpr u64 PAGE = 4096;

// Pages that end at their guard.
class Region {
  public:
    explicit Region(u64 bytes) {
        inside = (bytes + PAGE - 1) / PAGE * PAGE;
        void *mapping = mmap(nullptr, inside + PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED) {
            return;
        }
        base = (u8 *)mapping;
        if (mprotect(guard(), PAGE, PROT_NONE) != 0) {
            munmap(base, inside + PAGE);
            base = nullptr;
            return;
        }
        // Nothing may be taken for granted of memory that was just given.
        std::memset(base, 0xaa, inside);
    }

    Region(Region &&other) noexcept : base(other.base), inside(other.inside) { other.base = nullptr; }

    ~Region() {
        if (base) {
            munmap(base, inside + PAGE);
        }
    }

    bool is_there() const { return base; }
    u8 *guard() const { return base + inside; }

  private:
    u8 *base = nullptr;
    u64 inside;
};

struct Buffer {
    Region region;
    u64 bytes;
};

std::map<u64, Buffer> buffers;

// The buffer ends at the guard, but for what its alignment takes.
void *take(u64 bytes) {
    Region region(bytes + 15);
    if (!region.is_there()) {
        return nullptr;
    }
    u8 *begin = region.guard() - (bytes + 15) / 16 * 16;
    buffers.emplace((u64)begin, Buffer{std::move(region), bytes});
    return begin;
}

u64 give(u64 address) {
    auto found = buffers.find(address);
    if (found == buffers.end()) {
        return 0;
    }
    u64 bytes = found->second.bytes;
    buffers.erase(found);
    return bytes;
}

// Inputs and outputs of a combination at other places.
class Away {
  public:
    void move(Tile *tiles, u64 n_tiles, u64 n_ingredients) {
        for (u64 t = 0; t < n_tiles; t++) {
            Operand *operands = (Operand *)tiles[t].operands;
            for (u64 i = 0; i < n_ingredients; i++) {
                u64 bytes = tiles[t].n_elements * width_of((u32)operands[i].dtype);
                u8 *at = room_for(bytes);
                std::memcpy(at, (const u8 *)operands[i].address, bytes);
                operands[i].address = (u64)at;
            }
            if (tiles[t].kind & KIND_WRITES) {
                u64 bytes = tiles[t].n_elements * width_of(tiles[t].out_dtype);
                u8 *at = room_for(bytes);
                // What this kernel leaves alone, another has written or will write.
                std::memcpy(at, (const u8 *)tiles[t].out, bytes);
                outputs.push_back({(u8 *)tiles[t].out, at, bytes, &tiles[t]});
                tiles[t].out = (u64)at;
            }
        }
    }

    void move_outputs_back() {
        for (const Output &output : outputs) {
            std::memcpy(output.home, output.away, output.bytes);
            output.tile->out = (u64)output.home;
        }
        outputs.clear();
    }

    void forget() { room.clear(); }

  private:
    struct Output {
        u8 *home, *away;
        u64 bytes;
        Tile *tile;
    };

    // It ends at the guard, but for what its place takes.
    u8 *room_for(u64 bytes) {
        bool is_odd = is_placed("odd");
        u64 taken = is_odd ? bytes / 2 * 2 + 1 : (bytes + 15) / 16 * 16;
        const Region &region = room.emplace_back(taken);
        if (!region.is_there()) {
            std::abort();
        }
        return region.guard() - taken;
    }

    std::vector<Region> room;
    std::vector<Output> outputs;
};

struct Stream {
    std::vector<std::function<void()>> work;
    Away away;
};

void finish(Stream *stream) {
    for (const auto &step : stream->work) {
        step();
    }
    stream->work.clear();
}

struct Event {
    Stream *stream;
};

void launch(const std::string &kernel, Stream *stream, Dim grid, unsigned n_threads,
            const std::vector<u64> &p) {
    Tile *tiles = (Tile *)p[0];
    bool is_away = (is_placed("odd") || is_placed("even")) && kernel.starts_with("combine");
    if (is_away) {
        stream->away.move(tiles, p[1], ((const Weights *)p[2])->n_ingredients);
    }
    if (kernel == "combine") {
        run_alone([&] { combine(tiles, p[1], (const Weights *)p[2]); });
    } else if (kernel == "combine_exact") {
        run_alone([&] { combine_exact(tiles, p[1], (const Weights *)p[2]); });
    } else if (kernel == "gram_pieces") {
        run_grid(grid, n_threads, [&] {
            gram_pieces(tiles, (const Piece *)p[1], p[2], p[3], (double *)p[4]);
        });
    } else {
        run_alone([&] { gram_tiles(tiles, p[1], p[2], (const double *)p[3]); });
    }
    if (is_away) {
        stream->away.move_outputs_back();
    }
}

// Parameters of each kernel.
const std::map<std::string, unsigned> KERNELS = {
    {"combine", 3}, {"combine_exact", 3}, {"gram_pieces", 5}, {"gram_tiles", 4}};

} // namespace

#define CALL extern "C" int
#define ENTER(name)                                                                                \
    std::lock_guard<std::mutex> guard(lock);                                                       \
    if (int status = status_of(#name)) {                                                           \
        return status;                                                                             \
    }

CALL cuInit(unsigned) {
    ENTER(cuInit)
    return setting("STANDIN_DEVICES", 1) == 0 ? NO_DEVICE : OK;
}

CALL cuDeviceGetCount(int *count) {
    ENTER(cuDeviceGetCount)
    *count = (int)setting("STANDIN_DEVICES", 1);
    return OK;
}

CALL cuDeviceGet(int *device, int ordinal) {
    ENTER(cuDeviceGet)
    *device = ordinal;
    return ordinal < (int)setting("STANDIN_DEVICES", 1) ? OK : INVALID_DEVICE;
}

CALL cuDeviceGetName(char *name, int length, int) {
    ENTER(cuDeviceGetName)
    std::snprintf(name, length, "stand-in");
    return OK;
}

CALL cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER(cuDeviceGetAttribute)
    constexpr int CAPABILITY_MAJOR = 75;
    *value = attribute == CAPABILITY_MAJOR ? (int)setting("STANDIN_CAPABILITY", 8) : 0;
    return OK;
}

CALL cuDevicePrimaryCtxRetain(void **context, int) {
    ENTER(cuDevicePrimaryCtxRetain)
    static int place;
    *context = &place;
    return OK;
}

CALL cuDevicePrimaryCtxRelease_v2(int) { return OK; }

thread_local void *bound = nullptr;

CALL cuCtxSetCurrent(void *context) {
    ENTER(cuCtxSetCurrent)
    bound = context;
    return OK;
}

CALL cuCtxGetCurrent(void **context) {
    *context = bound;
    return OK;
}

CALL cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER(cuMemGetInfo_v2)
    *total = setting("STANDIN_MEMORY", 8ull << 30);
    *free = *total - used;
    return OK;
}

CALL cuMemAlloc_v2(u64 *address, size_t bytes) {
    ENTER(cuMemAlloc_v2)
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    if (used + bytes > setting("STANDIN_MEMORY", 8ull << 30)) {
        return OUT_OF_MEMORY;
    }
    *address = (u64)take(bytes);
    used += bytes;
    return OK;
}

CALL cuMemFree_v2(u64 address) {
    std::lock_guard<std::mutex> guard(lock);
    used -= give(address);
    return OK;
}

CALL cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    ENTER(cuMemHostAlloc)
    *address = take(bytes);
    return OK;
}

CALL cuMemFreeHost(void *address) {
    std::lock_guard<std::mutex> guard(lock);
    give((u64)address);
    return OK;
}

CALL cuStreamCreate(Stream **stream, unsigned) {
    ENTER(cuStreamCreate)
    *stream = new Stream;
    return OK;
}

CALL cuStreamDestroy_v2(Stream *stream) {
    std::lock_guard<std::mutex> guard(lock);
    delete stream;
    return OK;
}

CALL cuStreamSynchronize(Stream *stream) {
    ENTER(cuStreamSynchronize)
    finish(stream);
    return OK;
}

CALL cuEventCreate(Event **event, unsigned) {
    ENTER(cuEventCreate)
    *event = new Event{nullptr};
    return OK;
}

CALL cuEventDestroy_v2(Event *event) {
    delete event;
    return OK;
}

CALL cuEventRecord(Event *event, Stream *stream) {
    ENTER(cuEventRecord)
    event->stream = stream;
    return OK;
}

CALL cuEventSynchronize(Event *event) {
    ENTER(cuEventSynchronize)
    if (event->stream) {
        finish(event->stream);
    }
    return OK;
}

CALL cuStreamWaitEvent(Stream *, Event *event, unsigned) {
    ENTER(cuStreamWaitEvent)
    if (event->stream) {
        finish(event->stream);
    }
    return OK;
}

CALL cuMemsetD8Async(u64 address, unsigned char value, size_t bytes, Stream *stream) {
    ENTER(cuMemsetD8Async)
    stream->work.push_back([=] { std::memset((void *)address, value, bytes); });
    return OK;
}

CALL cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t bytes, Stream *stream) {
    ENTER(cuMemcpyHtoDAsync_v2)
    stream->work.push_back([=] {
        stream->away.forget();
        std::memcpy((void *)to, from, bytes);
    });
    return OK;
}

CALL cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t bytes, Stream *stream) {
    ENTER(cuMemcpyDtoHAsync_v2)
    stream->work.push_back([=] { std::memcpy(to, (const void *)from, bytes); });
    return OK;
}

CALL cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, Stream *stream) {
    ENTER(cuMemcpyDtoDAsync_v2)
    stream->work.push_back([=] { std::memcpy((void *)to, (const void *)from, bytes); });
    return OK;
}

CALL cuModuleLoadData(void **module, const void *image) {
    ENTER(cuModuleLoadData)
    *module = const_cast<void *>(image);
    return std::strstr((const char *)image, ".target sm_80") ? OK : INVALID_VALUE;
}

CALL cuModuleUnload(void *) { return OK; }

CALL cuModuleGetFunction(const std::string **function, void *, const char *name) {
    ENTER(cuModuleGetFunction)
    auto found = KERNELS.find(name);
    if (found == KERNELS.end()) {
        return INVALID_VALUE;
    }
    *function = &found->first;
    return OK;
}

CALL cuLaunchKernel(const std::string *function, unsigned columns, unsigned rows, unsigned,
                    unsigned n_threads, unsigned, unsigned, unsigned, Stream *stream,
                    void **parameters, void **) {
    ENTER(cuLaunchKernel)
    if (columns == 0 || rows == 0 || rows > 65535) {
        return INVALID_VALUE;
    }
    std::vector<u64> values;
    for (unsigned index = 0; index < KERNELS.at(*function); index++) {
        values.push_back(*(const u64 *)parameters[index]);
    }
    stream->work.push_back(
        [=] { launch(*function, stream, Dim{columns, rows}, n_threads, values); });
    return OK;
}

CALL cuGetErrorName(int, const char **name) {
    *name = "STANDIN";
    return OK;
}

CALL cuGetErrorString(int, const char **text) {
    *text = "the stand-in was asked to fail";
    return OK;
}
