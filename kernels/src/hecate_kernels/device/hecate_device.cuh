// The one header a kernel includes. Under NVRTC it is CUDA; on the host the same words run on fibers.
//
// A kernel is spelled as in CUDA (threadIdx, __syncthreads, __shfl_*_sync, atomicAdd, __expf, __ldg)
// except for what C++ on a host cannot express:
//   HECATE_SHARED(type, name, count)         a static shared array
//   HECATE_ARENA(arena); HECATE_CARVE(arena, type, name, count)   pieces of dynamic shared memory,
//                                            each rounded up to 128 bytes, in program order
//   mma_bf16, mma_f16, ldmatrix_x4, ..., cp_async_16   wrappers of the PTX instructions
// No header of the CUDA toolkit is needed, so the text of a kernel is the whole truth about it.
#pragma once

#if defined(__CUDACC__)
#include "hecate/gpu.cuh"
#else
#include "hecate/host.cuh"
#endif

#include "hecate/numbers.cuh"
#include "hecate/reductions.cuh"
