// The driver, NVRTC and cuBLASLt for tests on machines without a card: the functions that siglip-cuda calls, in one
// library that is opened under all three names.
//
// NVRTC compiles with the machine's own C++ compiler and emulator/device.cuh, the driver loads and runs the result, and
// cuBLASLt multiplies in plain loops. It is a strict machine:
//
// - Device memory ends at a page that cannot be touched, and begins as NaNs.
// - What is put into a stream happens only when something waits for it, as late as it may; a copy from memory that is not
//   pinned likewise, though its call returns.
// - Of branches of a graph that know nothing of each other, each does one thing in turn.
// - A call without a current context, or one that a capture forbids, fails; so does one about what belongs to another card
//   than the current one.
// - cuBLASLt's fastest algorithm is another one for few rows than for many, and their bits differ. Where a test asks for it,
//   algorithms also differ in when they add the bias.
// - It refuses of e4m3 products what NVIDIA's documentation of cublasLtMatmul does not list, and a bias beside a matrix that
//   is added.
//
// Tests make any function fail with emulator_fail and ask after calls, memory and handles.

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static std::recursive_mutex lock;

// Failures and counts ------------------------------------------------------------------------------------------------

struct Failure {
    int code, after;
};
static std::map<std::string, Failure> failures;
static std::map<std::string, int> calls;

static int enter(const char* name) {
    calls[name]++;
    auto found = failures.find(name);
    if (found == failures.end() || found->second.after-- > 0) return 0;
    const int code = found->second.code;
    return code;
}
#define ENTER(name)                                     \
    std::lock_guard<std::recursive_mutex> guard(lock);  \
    if (const int code = enter(#name)) return code;

static int contexts[16];
static bool lost[16];
static thread_local void* current_context;
static int current_card() { return (int)((int*)current_context - contexts); }
#define ENTER_CONTEXT(name)           \
    ENTER(name)                       \
    if (!current_context) return 201; \
    if (lost[current_card()]) return 700;
// The same for a call about something that has a context.
#define ENTER_WITH(name, type, handle) \
    ENTER_CONTEXT(name)                \
    if (((type*)handle)->context != current_context) return 400;

[[noreturn]] static void refuse(const char* what) {
    fprintf(stderr, "emulator: %s\n", what);
    abort();
}

extern "C" {

// From the call after the next `after` on, `name` returns `code`; 0 ends that.
void emulator_fail(const char* name, int code, int after) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (code == 0) failures.erase(name);
    else failures[name] = {code, after};
}
static bool bias_first_for_few;
// Whether the algorithms for few rows begin their sums with the bias, where those for many end with it.
void emulator_bias_first(int first) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    bias_first_for_few = first;
}
static std::string wrong;
// What is computed wrongly: a kernel leaves out its last blocks, or products leave out "bias", "gelu" or "added".
void emulator_wrong(const char* what) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    wrong = what;
}
int emulator_calls(const char* name) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    return calls[name];
}

static int cards = 2, driver_version = 12040, capability = 90;
static size_t memory = 2u << 30;
void emulator_machine(int count, int version, int compute, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    cards = count, driver_version = version, capability = compute, memory = bytes;
    std::fill(lost, lost + 16, false);
}
// Every call about that card fails from now on, until the machine is set anew.
void emulator_lose(int card) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    lost[card] = true;
}

// The driver: devices ------------------------------------------------------------------------------------------------

int cuInit(unsigned) {
    ENTER(cuInit)
    return cards ? 0 : 100;
}
int cuDriverGetVersion(int* version) {
    ENTER(cuDriverGetVersion)
    *version = driver_version;
    return 0;
}
int cuGetErrorName(int code, const char** name) {
    *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : nullptr;
    return *name ? 0 : 1;
}
int cuGetErrorString(int code, const char** text) {
    *text = code == 700 ? "an illegal memory access was encountered" : nullptr;
    return *text ? 0 : 1;
}
int cuDeviceGetCount(int* count) {
    ENTER(cuDeviceGetCount)
    *count = cards;
    return 0;
}
int cuDeviceGet(int* device, int ordinal) {
    ENTER(cuDeviceGet)
    *device = ordinal;
    return ordinal < cards ? 0 : 101;
}
int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    ENTER(cuDeviceGetUuid_v2)
    for (int i = 0; i < 16; i++) uuid[i] = i * 16 + device;
    return 0;
}
int cuDeviceGetName(char* name, int len, int) {
    ENTER(cuDeviceGetName)
    snprintf(name, len, "Emulated card");
    return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    ENTER(cuDeviceGetAttribute)
    if (attribute != 75 && attribute != 76) return 1;
    *value = attribute == 75 ? capability / 10 : capability % 10;
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
    ENTER(cuDeviceTotalMem_v2)
    *bytes = memory;
    return 0;
}
static int retained;
int cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER(cuDevicePrimaryCtxRetain)
    *context = &contexts[device];
    retained++;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    ENTER(cuDevicePrimaryCtxRelease_v2)
    retained--;
    return 0;
}
int cuCtxSetCurrent(void* context) {
    ENTER(cuCtxSetCurrent)
    current_context = context;
    return 0;
}

// Memory -------------------------------------------------------------------------------------------------------------

struct Allocation {
    void* map;
    size_t map_bytes, bytes;
    int card;
};
static std::map<u64, Allocation> allocations;
static size_t used[16], pinned;
static int handles;  // streams, events, graphs, modules, programs and cuBLASLt's
// Whether an address is in the current card's memory.
static bool is_here(u64 address) {
    auto after = allocations.upper_bound(address);
    return after != allocations.begin() && std::prev(after)->second.card == current_card();
}
static bool capturing_any;

size_t emulator_in_use() {
    size_t all = pinned + retained + handles;
    for (size_t bytes : used) all += bytes;
    return all;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER_CONTEXT(cuMemGetInfo_v2)
    *free = memory - used[current_card()];
    *total = memory;
    return 0;
}
int cuMemAlloc_v2(u64* pointer, size_t bytes) {
    ENTER_CONTEXT(cuMemAlloc_v2)
    if (bytes == 0) return 1;
    if (capturing_any) return 900;
    if (used[current_card()] + bytes > memory) return 2;
    const size_t page = 4096, rounded = (bytes + 15) / 16 * 16, pages = (rounded + page - 1) / page * page;
    char* map = (char*)mmap(nullptr, pages + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + page, pages, PROT_READ | PROT_WRITE)) return 2;
    memset(map + page, 0xff, pages);
    *pointer = (u64)(map + page + pages - rounded);
    allocations[*pointer] = {map, pages + 2 * page, bytes, current_card()};
    used[current_card()] += bytes;
    return 0;
}

}  // extern "C"

// Streams ------------------------------------------------------------------------------------------------------------

typedef std::function<void()> Operation;
struct Stream;
// What is captured: operations, each after some of those before it.
struct Capture {
    struct Node {
        const Stream* stream;
        Operation operation;
        std::vector<size_t> after;
    };
    std::vector<Node> nodes;
    // What the next operation of a stream comes after.
    std::map<const Stream*, std::vector<size_t>> ends;

    void put(const Stream* stream, Operation operation) {
        nodes.push_back({stream, std::move(operation), ends[stream]});
        ends[stream] = {nodes.size() - 1};
    }
    // The operations in an order in which streams take turns as far as they need not wait for one another.
    std::vector<Operation> in_turns() const {
        std::vector<Operation> ordered;
        std::vector<bool> done(nodes.size());
        const Stream* last = nullptr;
        while (ordered.size() < nodes.size()) {
            size_t next = nodes.size();
            for (size_t i = 0; i < nodes.size(); i++) {
                bool ready = !done[i];
                for (size_t before : nodes[i].after) ready = ready && done[before];
                if (!ready) continue;
                next = std::min(next, i);
                if (nodes[i].stream != last) {
                    next = i;
                    break;
                }
            }
            done[next] = true;
            last = nodes[next].stream;
            ordered.push_back(nodes[next].operation);
        }
        return ordered;
    }
};
struct Stream {
    void* context = current_context;
    std::vector<Operation> operations;
    size_t done = 0;
    Capture* capture = nullptr;
    // Of a stream that a capture began in another one came to: whether that one waits for what is in it by now.
    bool came_to = false, joined = false;
    double clock = 0;
    void put(Operation operation) {
        joined = false;
        if (capture) capture->put(this, std::move(operation));
        else operations.push_back(std::move(operation));
    }
    void run_until(size_t position) {
        while (done < position) {
            Operation operation = std::move(operations[done]);
            done++;
            operation();
        }
    }
};
struct Event {
    void* context = current_context;
    bool timed = false;
    Stream* stream = nullptr;
    Capture* capture = nullptr;
    // Where it is: in the capture, or else in the stream.
    std::vector<size_t> ends;
    size_t position = 0;
    double time = 0;
};
static std::vector<Stream*> streams;
static Stream default_stream;
static double elapsed;  // of what has run, in made-up milliseconds

static void run_all() {
    default_stream.run_until(default_stream.operations.size());
    for (Stream* stream : streams) stream->run_until(stream->operations.size());
}

extern "C" {

int cuMemFree_v2(u64 pointer) {
    ENTER_CONTEXT(cuMemFree_v2)
    run_all();
    auto found = allocations.find(pointer);
    if (found == allocations.end()) return 1;
    if (found->second.card != current_card()) return 400;
    used[current_card()] -= found->second.bytes;
    munmap(found->second.map, found->second.map_bytes);
    allocations.erase(found);
    return 0;
}
int cuMemAllocHost_v2(void** pointer, size_t bytes) {
    ENTER_CONTEXT(cuMemAllocHost_v2)
    *pointer = malloc(bytes);
    memset(*pointer, 0xff, bytes);
    pinned++;
    return 0;
}
int cuMemFreeHost(void* pointer) {
    ENTER_CONTEXT(cuMemFreeHost)
    run_all();
    free(pointer);
    pinned--;
    return 0;
}
int cuMemcpyHtoD_v2(u64 target, const void* source, size_t bytes) {
    ENTER_CONTEXT(cuMemcpyHtoD_v2)
    if (!is_here(target)) return 1;
    // What is copied is in the driver's memory when the call returns, and not yet in the card's.
    auto staged = std::make_shared<std::vector<char>>((const char*)source, (const char*)source + bytes);
    default_stream.put([=] { memcpy((void*)target, staged->data(), bytes); });
    return 0;
}
int cuMemcpyDtoH_v2(void* target, u64 source, size_t bytes) {
    ENTER_CONTEXT(cuMemcpyDtoH_v2)
    if (!is_here(source)) return 1;
    default_stream.run_until(default_stream.operations.size());
    memcpy(target, (void*)source, bytes);
    return 0;
}
int cuMemcpyHtoDAsync_v2(u64 target, const void* source, size_t bytes, void* stream) {
    ENTER_WITH(cuMemcpyHtoDAsync_v2, Stream, stream)
    if (!is_here(target)) return 1;
    ((Stream*)stream)->put([=] { memcpy((void*)target, source, bytes); });
    return 0;
}
int cuMemcpyDtoHAsync_v2(void* target, u64 source, size_t bytes, void* stream) {
    ENTER_WITH(cuMemcpyDtoHAsync_v2, Stream, stream)
    if (!is_here(source)) return 1;
    ((Stream*)stream)->put([=] { memcpy(target, (void*)source, bytes); });
    return 0;
}
int cuMemcpyDtoDAsync_v2(u64 target, u64 source, size_t bytes, void* stream) {
    ENTER_WITH(cuMemcpyDtoDAsync_v2, Stream, stream)
    ((Stream*)stream)->put([=] { memcpy((void*)target, (void*)source, bytes); });
    return 0;
}
int cuMemsetD8Async(u64 target, unsigned char value, size_t bytes, void* stream) {
    ENTER_WITH(cuMemsetD8Async, Stream, stream)
    if (!is_here(target)) return 1;
    ((Stream*)stream)->put([=] { memset((void*)target, value, bytes); });
    return 0;
}
int cuStreamCreate(void** stream, unsigned) {
    ENTER_CONTEXT(cuStreamCreate)
    streams.push_back(new Stream);
    handles++;
    *stream = streams.back();
    return 0;
}
int cuStreamDestroy_v2(void* stream) {
    ENTER_WITH(cuStreamDestroy_v2, Stream, stream)
    run_all();
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete (Stream*)stream;
    handles--;
    return 0;
}
int cuStreamSynchronize(void* stream) {
    ENTER_CONTEXT(cuStreamSynchronize)
    Stream* s = stream ? (Stream*)stream : &default_stream;
    if (stream && s->context != current_context) return 400;
    if (s->capture) return 900;
    s->run_until(s->operations.size());
    return 0;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    ENTER_WITH(cuStreamWaitEvent, Stream, stream)
    const Event e = *(Event*)event;
    Stream* s = (Stream*)stream;
    if (e.capture) {
        // A capture goes on in what waits for it.
        if (!s->capture) {
            s->capture = e.capture;
            s->came_to = true;
        }
        e.stream->joined = true;
        if (s->capture != e.capture) return 902;
        auto& ends = s->capture->ends[s];
        ends.insert(ends.end(), e.ends.begin(), e.ends.end());
        return 0;
    }
    if (s->capture) return 905;  // what was not captured is not waited for
    if (e.stream) s->put([=] { e.stream->run_until(e.position); });
    return 0;
}
int cuEventCreate(void** event, unsigned flags) {
    ENTER_CONTEXT(cuEventCreate)
    Event* e = new Event;
    e->timed = !(flags & 2);
    *event = e;
    handles++;
    return 0;
}
int cuEventDestroy_v2(void* event) {
    ENTER_WITH(cuEventDestroy_v2, Event, event)
    run_all();
    delete (Event*)event;
    handles--;
    return 0;
}
int cuEventRecord(void* event, void* stream) {
    ENTER_WITH(cuEventRecord, Stream, stream)
    Event* e = (Event*)event;
    Stream* s = (Stream*)stream;
    // In a graph it is an order and no operation.
    if (!s->capture) s->put([=] { e->time = elapsed; });
    e->stream = s;
    e->capture = s->capture;
    if (s->capture) e->ends = s->capture->ends[s];
    e->position = s->operations.size();
    return 0;
}
int cuEventSynchronize(void* event) {
    ENTER_WITH(cuEventSynchronize, Event, event)
    Event* e = (Event*)event;
    if (e->stream) e->stream->run_until(e->position);
    return 0;
}
int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    ENTER_CONTEXT(cuEventElapsedTime)
    if (!((Event*)start)->timed || !((Event*)end)->timed) return 400;
    *milliseconds = ((Event*)end)->time - ((Event*)start)->time;
    return 0;
}

int cuGraphDestroy(void* graph);

// Graphs -------------------------------------------------------------------------------------------------------------

int cuStreamBeginCapture_v2(void* stream, int) {
    ENTER_WITH(cuStreamBeginCapture_v2, Stream, stream)
    ((Stream*)stream)->capture = new Capture;
    handles++;
    capturing_any = true;
    return 0;
}
int cuStreamEndCapture(void* stream, void** graph) {
    // A capture ends also where that fails, and then gives no graph.
    Capture* captured = ((Stream*)stream)->capture;
    bool unjoined = false;
    for (Stream* s : streams) {
        if (s->capture != captured) continue;
        unjoined |= s->came_to && !s->joined;
        s->capture = nullptr;
        s->came_to = false;
    }
    capturing_any = false;
    *graph = captured;
    auto ended = [&] {
        ENTER_CONTEXT(cuStreamEndCapture)
        return unjoined ? 904 : 0;
    };
    const int code = ended();
    if (code) {
        cuGraphDestroy(captured);
        *graph = nullptr;
    }
    return code;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, u64) {
    ENTER_CONTEXT(cuGraphInstantiateWithFlags)
    *executable = new std::vector<Operation>(((Capture*)graph)->in_turns());
    handles++;
    return 0;
}
int cuGraphLaunch(void* executable, void* stream) {
    ENTER_WITH(cuGraphLaunch, Stream, stream)
    auto graph = (std::vector<Operation>*)executable;
    ((Stream*)stream)->put([=] {
        for (const Operation& operation : *graph) operation();
        calls["graph ran"]++;
    });
    return 0;
}
int cuGraphExecDestroy(void* executable) {
    ENTER_CONTEXT(cuGraphExecDestroy)
    run_all();
    delete (std::vector<Operation>*)executable;
    handles--;
    return 0;
}
int cuGraphDestroy(void* graph) {
    delete (Capture*)graph;
    handles--;
    return 0;
}

// Kernels ------------------------------------------------------------------------------------------------------------

int cuModuleLoadData(void** module, const void* image) {
    ENTER_CONTEXT(cuModuleLoadData)
    // Our NVRTC's machine code is the path of a library.
    *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) return 200;
    handles++;
    return 0;
}
int cuModuleUnload(void* module) {
    ENTER_CONTEXT(cuModuleUnload)
    run_all();
    dlclose(module);
    handles--;
    return 0;
}
struct Function {
    void (*run)(const void*, const unsigned*, unsigned);
    size_t parameter_bytes;
    std::string name;
};
int cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER_CONTEXT(cuModuleGetFunction)
    void* run = dlsym(module, name);
    void* bytes = dlsym(module, (std::string(name) + "_bytes").c_str());
    if (!run || !bytes) return 500;
    static std::map<void*, Function> functions;
    functions[run] = {(void (*)(const void*, const unsigned*, unsigned))run, *(const size_t*)bytes, name};
    *function = &functions[run];
    return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** parameters, void**) {
    ENTER_WITH(cuLaunchKernel, Stream, stream)
    if (!x || !y || !z || y > 65535 || z > 65535 || threads > 1024 || ty != 1 || tz != 1 || shared) return 1;
    const Function f = *(Function*)function;
    auto bytes = std::make_shared<std::vector<char>>((char*)parameters[0], (char*)parameters[0] + f.parameter_bytes);
    const unsigned blocks = f.name == wrong ? x - 1 : x;
    ((Stream*)stream)->put([=] {
        const unsigned grid[3] = {blocks, y, z};
        f.run(bytes->data(), grid, threads);
    });
    return 0;
}

// NVRTC --------------------------------------------------------------------------------------------------------------

struct Program {
    std::string source, log, library;
    std::vector<std::pair<std::string, std::string>> headers;
};
static std::string folder() {
    Dl_info info;
    dladdr((void*)&folder, &info);
    const std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

int nvrtcVersion(int* major, int* minor) {
    *major = 12, *minor = 4;
    return 0;
}
const char* nvrtcGetErrorString(int code) { return code ? "NVRTC_ERROR" : "NVRTC_SUCCESS"; }
int nvrtcGetNumSupportedArchs(int* count) {
    *count = 3;
    return 0;
}
int nvrtcGetSupportedArchs(int* archs) {
    archs[0] = 80, archs[1] = 89, archs[2] = 90;
    return 0;
}
int nvrtcCreateProgram(void** program, const char* source, const char*, int count, const char* const* headers,
                       const char* const* names) {
    ENTER(nvrtcCreateProgram)
    Program* p = new Program{source, "", "", {}};
    for (int i = 0; i < count; i++) p->headers.push_back({names[i], headers[i]});
    *program = p;
    handles++;
    return 0;
}
int nvrtcDestroyProgram(void** program) {
    delete (Program*)*program;
    handles--;
    return 0;
}
int nvrtcCompileProgram(void* program, int count, const char* const* options) {
    ENTER(nvrtcCompileProgram)
    Program* p = (Program*)program;
    std::string flags, text = p->source;
    for (int i = 0; i < count; i++) {
        if (strncmp(options[i], "-D", 2) == 0) flags += std::string(" ") + options[i];
    }
    for (auto& header : p->headers) text += header.second;
    char id[32];
    snprintf(id, sizeof id, "%zx-%d", std::hash<std::string>()(text + flags), (int)getpid());
    const std::string base = folder() + "/" + id;
    p->library = base + ".so";
    if (access(p->library.c_str(), R_OK) == 0) return 0;
    for (auto& header : p->headers) {
        // device.cuh is the emulator's, which lies beside this library.
        if (header.first != "device.cuh") std::ofstream(folder() + "/" + header.first) << header.second;
    }
    std::ofstream(base + ".cpp") << p->source;
    // Shared memory in templates would be one for all libraries of the process if it were not hidden.
    const std::string command = "c++ -std=c++17 -O1 -ffp-contract=off -fPIC -fvisibility=hidden -shared -w" + flags +
                                " -I" + folder() + " -o " + p->library + " " + base + ".cpp > " + base + ".log 2>&1";
    if (system(command.c_str()) == 0) return 0;
    std::ifstream log(base + ".log");
    p->log.assign(std::istreambuf_iterator<char>(log), {});
    return 6;
}
int nvrtcGetProgramLogSize(void* program, size_t* bytes) {
    *bytes = ((Program*)program)->log.size() + 1;
    return 0;
}
int nvrtcGetProgramLog(void* program, char* log) {
    strcpy(log, ((Program*)program)->log.c_str());
    return 0;
}
int nvrtcGetCUBINSize(void* program, size_t* bytes) {
    *bytes = ((Program*)program)->library.size() + 1;
    return 0;
}
int nvrtcGetCUBIN(void* program, char* cubin) {
    strcpy(cubin, ((Program*)program)->library.c_str());
    return 0;
}
int nvrtcGetPTXSize(void* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
int nvrtcGetPTX(void* program, char* ptx) { return nvrtcGetCUBIN(program, ptx); }

// cuBLASLt -----------------------------------------------------------------------------------------------------------

struct Description {
    int transpose_a = 0;
    u32 epilogue = 1;
    const void* bias = nullptr;
    const float *scale_a = nullptr, *scale_b = nullptr, *scale_d = nullptr;
    int bias_number = -1;
};
struct Layout {
    int number;
    u64 rows, columns;
    int64_t ld;
};
struct Preference {
    u32 reductions = ~0u;
    u32 alignments[4] = {256, 256, 256, 256};
};
struct Algorithm {
    u64 data[8];
};
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

size_t cublasLtGetVersion() { return 120400; }
const char* cublasLtGetStatusName(int status) {
    return status == 13 ? "CUBLAS_STATUS_EXECUTION_FAILED" : status == 15 ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_UNKNOWN";
}
int cublasLtCreate(void** handle) {
    ENTER_CONTEXT(cublasLtCreate)
    *handle = new int;
    handles++;
    return 0;
}
int cublasLtDestroy(void* handle) {
    delete (int*)handle;
    handles--;
    return 0;
}
int cublasLtMatmulDescCreate(void** description, int compute, int scale) {
    ENTER(cublasLtMatmulDescCreate)
    if (compute != 68 || scale != 0) return 15;
    *description = new Description;
    handles++;
    return 0;
}
int cublasLtMatmulDescDestroy(void* description) {
    delete (Description*)description;
    handles--;
    return 0;
}
int cublasLtMatmulDescSetAttribute(void* description, int attribute, const void* value, size_t bytes) {
    Description* d = (Description*)description;
    if (attribute == 3 && bytes == 4) memcpy(&d->transpose_a, value, 4);
    else if (attribute == 7 && bytes == 4) memcpy(&d->epilogue, value, 4);
    else if (attribute == 8 && bytes == 8) memcpy(&d->bias, value, 8);
    else if (attribute == 17 && bytes == 8) memcpy(&d->scale_a, value, 8);
    else if (attribute == 18 && bytes == 8) memcpy(&d->scale_b, value, 8);
    else if (attribute == 20 && bytes == 8) memcpy(&d->scale_d, value, 8);
    else if (attribute == 26 && bytes == 4) memcpy(&d->bias_number, value, 4);
    else if (attribute == 25 && bytes == 1) {}
    else return 7;
    return 0;
}
int cublasLtMatrixLayoutCreate(void** layout, int number, u64 rows, u64 columns, int64_t ld) {
    ENTER(cublasLtMatrixLayoutCreate)
    if (ld < (int64_t)rows) return 7;
    *layout = new Layout{number, rows, columns, ld};
    handles++;
    return 0;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
    delete (Layout*)layout;
    handles--;
    return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) {
    ENTER(cublasLtMatmulPreferenceCreate)
    *preference = new Preference;
    handles++;
    return 0;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
    delete (Preference*)preference;
    handles--;
    return 0;
}
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
    if (attribute == 3 && bytes == 4) memcpy(&((Preference*)preference)->reductions, value, 4);
    else if (attribute >= 5 && attribute <= 8 && bytes == 4) memcpy(&((Preference*)preference)->alignments[attribute - 5], value, 4);
    else if (!(attribute == 1 && bytes == 8)) return 7;
    return 0;
}

constexpr int F32 = 0, BF16 = 14, E4M3 = 28;

// Whether there are algorithms for a product.
static bool is_supported(const Description& desc, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    if (desc.epilogue != 1 && desc.epilogue != 4 && desc.epilogue != 36) return false;
    if (a.number != E4M3) return desc.epilogue != 1 && c.number == d.number && desc.bias_number == -1;
    const bool has_bias = desc.epilogue != 1;
    const bool types = d.number == E4M3 ? c.number == BF16 : c.number == d.number && (d.number == BF16 || d.number == F32);
    // Rows of 16 bytes: of A and B along k, of C and D along their own.
    const bool widths = a.rows % 16 == 0 && a.ld % 16 == 0 && b.ld % 16 == 0 && d.rows % 16 == 0 && d.ld % 16 == 0;
    return capability >= 89 && desc.transpose_a == 1 && types && widths && (!has_bias || desc.bias_number == BF16);
}

// Algorithm 0 adds along k; 1, the faster one for few rows, adds the two halves apart.
int cublasLtMatmulAlgoGetHeuristic(void*, void* description, void* a, void* b, void* c, void* d, void* preference,
                                   int requested, Heuristic* results, int* returned) {
    ENTER(cublasLtMatmulAlgoGetHeuristic)
    if (!is_supported(*(Description*)description, *(Layout*)a, *(Layout*)b, *(Layout*)c, *(Layout*)d)) return 15;
    if (((Preference*)preference)->reductions != 0) refuse("splitting k is not ruled out");
    const bool few = ((Layout*)d)->columns <= 64;
    *returned = std::min(requested, 2);
    for (int i = 0; i < *returned; i++) {
        results[i] = {};
        results[i].algorithm.data[0] = few ? 1 - i : i;
        memcpy(&results[i].algorithm.data[1], ((Preference*)preference)->alignments, 16);
    }
    return 0;
}

static float load(int number, const void* base, u64 at) {
    if (number == E4M3) {
        const int byte = ((const unsigned char*)base)[at], exponent = byte >> 3 & 15, units = byte & 7;
        const float magnitude = (byte & 127) == 127 ? NAN : exponent ? std::ldexp(8.0f + units, exponent - 10) : std::ldexp((float)units, -9);
        return byte & 128 ? -magnitude : magnitude;
    }
    const u16 bits16 = number == 0 ? 0 : ((const u16*)base)[at];
    if (number == 0) return ((const float*)base)[at];
    u32 bits32;
    if (number == 14) {
        bits32 = (u32)bits16 << 16;
    } else {
        const int exponent = bits16 >> 10 & 31;
        const float magnitude = exponent == 31 ? (bits16 & 1023 ? NAN : INFINITY)
                                : exponent     ? std::ldexp((float)(1024 + (bits16 & 1023)), exponent - 25)
                                               : std::ldexp((float)(bits16 & 1023), -24);
        return bits16 & 0x8000 ? -magnitude : magnitude;
    }
    float value;
    memcpy(&value, &bits32, 4);
    return value;
}
static void store(int number, void* base, u64 at, float value) {
    if (number == E4M3) {
        const int sign = std::signbit(value) ? 128 : 0;
        const float magnitude = std::fmin(std::fabs(value), 448.0f);
        const int exponent = magnitude == 0 ? -6 : std::max(std::ilogb(magnitude), -6);
        const int units = (int)std::nearbyint(std::ldexp(magnitude, 3 - exponent));
        ((unsigned char*)base)[at] = std::isnan(value) ? sign | 127 : sign | ((exponent + 6) * 8 + units);
        return;
    }
    if (number == 0) {
        ((float*)base)[at] = value;
        return;
    }
    u32 b;
    memcpy(&b, &value, 4);
    u16 rounded;
    if (number == 14) {
        rounded = std::isnan(value) ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16;
    } else if (std::isnan(value)) {
        rounded = 0x7fff;
    } else {
        const u16 sign = b >> 16 & 0x8000;
        const float magnitude = std::fabs(value);
        const int exponent = magnitude == 0 ? -14 : std::max(std::ilogb(magnitude), -14);
        const float units = magnitude >= 65520 ? 0 : std::nearbyint(std::ldexp(magnitude, 10 - exponent));
        rounded = magnitude >= 65520 ? sign | 0x7c00 : sign | (u16)((exponent + 14) * 1024 + units);
    }
    ((u16*)base)[at] = rounded;
}
static float gelu(float x) { return 0.5f * x * (1 + tanhf(0.7978846f * (x + 0.044715f * x * x * x))); }

int cublasLtMatmul(void*, void* description, const void* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                   const Algorithm* algorithm, void*, size_t, void* stream) {
    ENTER_WITH(cublasLtMatmul, Stream, stream)
    const Description desc = *(Description*)description;
    const Layout la = *(Layout*)a_layout, lb = *(Layout*)b_layout, lc = *(Layout*)c_layout, ld = *(Layout*)d_layout;
    const float by = *(const float*)alpha, keep = *(const float*)beta;
    if (!desc.transpose_a || la.rows != lb.rows || la.columns != ld.rows || lb.columns != ld.columns) return 7;
    if (la.number != lb.number || (c == d && lc.ld != ld.ld)) return 7;
    if (!is_supported(desc, la, lb, lc, ld)) return 15;
    const bool fp8 = la.number == E4M3, has_bias = desc.epilogue != 1;
    if (fp8 && (!desc.scale_a || !desc.scale_b || (ld.number == E4M3 && !desc.scale_d) || (has_bias && keep != 0))) return 15;
    if (!fp8 && (desc.scale_a || desc.scale_b || desc.scale_d)) return 7;
    if ((c == d && lc.number != ld.number) || (!c && keep != 0)) return 7;
    // What the heuristic was told of the operands' addresses holds.
    const u32* alignments = (const u32*)&algorithm->data[1];
    const void* operands[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if ((u64)operands[i] % alignments[i]) return 15;
    }
    const u64 k = la.rows, halves = algorithm->data[0] + 1;
    const bool bias_first = bias_first_for_few && !fp8 && has_bias && ld.columns <= 64;
    const std::string left_out = wrong;
    ((Stream*)stream)->put([=] {
        std::vector<float> left(la.columns * k), right(k);
        for (u64 row = 0; row < la.columns; row++)
            for (u64 i = 0; i < k; i++) left[row * k + i] = load(la.number, a, row * la.ld + i);
        for (u64 column = 0; column < ld.columns; column++) {
            for (u64 i = 0; i < k; i++) right[i] = load(lb.number, b, column * lb.ld + i);
            for (u64 row = 0; row < ld.rows; row++) {
                const float bias = has_bias && left_out != "bias" ? load(fp8 ? desc.bias_number : ld.number, desc.bias, row) : 0;
                float total = bias_first ? bias : 0;
                for (u64 half = 0; half < halves; half++) {
                    float sum = 0;
                    for (u64 i = k * half / halves; i < k * (half + 1) / halves; i++) sum += left[row * k + i] * right[i];
                    total += sum;
                }
                total *= by;
                if (fp8) total *= *desc.scale_a * *desc.scale_b;
                if (keep != 0 && left_out != "added") total += keep * load(lc.number, c, column * lc.ld + row);
                if (!bias_first) total += bias;
                if (desc.epilogue == 36 && left_out != "gelu") total = gelu(total);
                store(ld.number, d, column * ld.ld + row, ld.number == E4M3 ? total * *desc.scale_d : total);
            }
        }
        const double work = ld.columns * 1e-3;
        elapsed += halves == 1 ? 0.02 + work : 0.01 + 1.1 * work;
    });
    return 0;
}

}  // extern "C"
