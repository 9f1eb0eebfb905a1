// Stands in for libcusolver without a GPU: the functions that tsm_fast/steps/cusolver.py calls, on memory of the host.
//
// Prototypes and limits as in cusolverDn.h. What a caller may get wrong is refused: a handle that is used twice at
// once, types, sizes, workspaces (which must be zero, as cuSOLVER 11.7.1 needs them, and are written over). The
// eigenpairs themselves come from a function that the test sets; it sees the lower triangle only.

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>

namespace {

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 3, INTERNAL_ERROR = 7 };
enum Function { CREATE, CREATE_PARAMS, SET_STREAM, BUFFER_SIZE, SOLVE };

struct Handle {
    std::atomic<bool> busy{false};
    bool has_stream = false;
};

}  // namespace

extern "C" {

// What a test reads and sets.
std::atomic<int> handles{0};         // that are there now
std::atomic<int> params_objects{0};  // likewise
std::atomic<int> created{0};         // handles in all
std::atomic<int> calls{0};           // of the solver
std::atomic<int> matrices{0};        // that it was given
int64_t largest = INT32_MAX;         // n * lda * batchSize of a call
int failing_function = -1;           // which returns `failing_status`
int failing_status = SUCCESS;
int unconverged = -1;  // item of each call
int together = 0;      // calls wait until there were so many
void (*eigenpairs)(int64_t n, int type, void* matrix, void* values) = nullptr;

int cusolverDnCreate(Handle** handle) {
    if (failing_function == CREATE) return failing_status;
    *handle = new Handle;
    ++handles;
    ++created;
    return SUCCESS;
}

int cusolverDnDestroy(Handle* handle) {
    delete handle;
    --handles;
    return SUCCESS;
}

int cusolverDnCreateParams(void** params) {
    if (failing_function == CREATE_PARAMS) return failing_status;
    *params = new char;
    ++params_objects;
    return SUCCESS;
}

int cusolverDnDestroyParams(void* params) {
    delete static_cast<char*>(params);
    --params_objects;
    return SUCCESS;
}

int cusolverDnSetStream(Handle* handle, void*) {
    if (failing_function == SET_STREAM) return failing_status;
    if (handle == nullptr) return NOT_INITIALIZED;
    handle->has_stream = true;
    return SUCCESS;
}

#ifndef BEFORE_CUDA_12_6_2

int cusolverDnXsyevBatched_bufferSize(Handle* handle, void* params, int jobz, int uplo, int64_t n, int type_a,
                                      const void* a, int64_t lda, int type_w, const void* w, int compute_type,
                                      size_t* device_bytes, size_t* host_bytes, int64_t batch) {
    if (failing_function == BUFFER_SIZE) return failing_status;
    if (handle == nullptr || params == nullptr || !handle->has_stream) return NOT_INITIALIZED;
    const bool known = (type_a == 0 || type_a == 1) && type_w == type_a && compute_type == type_a;
    if (jobz != 1 || uplo != 0 || !known || a == nullptr || w == nullptr) return INVALID_VALUE;
    if (n < 1 || lda < n || batch < 1 || n * lda * batch > largest) return INVALID_VALUE;
    *device_bytes = 1000 + batch * n * n * 8;
    *host_bytes = 10 + n;
    return SUCCESS;
}

int cusolverDnXsyevBatched(Handle* handle, void* params, int jobz, int uplo, int64_t n, int type_a, void* a,
                           int64_t lda, int type_w, void* w, int compute_type, void* device_work, size_t device_bytes,
                           void* host_work, size_t host_bytes, int* info, int64_t batch) {
    if (failing_function == SOLVE) return failing_status;
    size_t least_device = 0, least_host = 0;
    const int status = cusolverDnXsyevBatched_bufferSize(handle, params, jobz, uplo, n, type_a, a, lda, type_w, w,
                                                         compute_type, &least_device, &least_host, batch);
    if (status != SUCCESS) return status;
    if (device_bytes < least_device || host_bytes < least_host || info == nullptr) return INVALID_VALUE;
    if (handle->busy.exchange(true)) return INTERNAL_ERROR;
    ++calls;
    matrices += static_cast<int>(batch);
    for (int i = 0; i < 10000 && calls < together; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));

    bool zero = true;
    for (size_t i = 0; i < device_bytes; ++i) zero = zero && static_cast<char*>(device_work)[i] == 0;
    std::memset(device_work, 0xff, device_bytes);
    std::memset(host_work, 0xff, host_bytes);
    const size_t size = type_a == 0 ? 4 : 8;
    for (int64_t k = 0; k < batch; ++k) {
        char* matrix = static_cast<char*>(a) + k * lda * n * size;
        const auto at = [&](int64_t row, int64_t column) { return matrix + (row + column * lda) * size; };
        for (int64_t column = 0; column < n; ++column)
            for (int64_t row = 0; row < column; ++row) std::memcpy(at(row, column), at(column, row), size);
        eigenpairs(n, type_a, matrix, static_cast<char*>(w) + k * n * size);
        info[k] = k == unconverged ? 1 : 0;
        if (!zero || k == unconverged) std::memset(matrix, 0xff, n * n * size);  // NaN
    }
    handle->busy = false;
    return SUCCESS;
}

#endif

}  // extern "C"
