// How one stack gives the processor to another, and what sanitizers are told about it.
//
// The runner is one translation unit in parts; each part is included once, by the next.
#pragma once
#include <stddef.h>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the host backend needs x86-64 Linux; use the reference backend here"
#endif

extern "C" {
void hecate_switch(void** save, void* load);
void* __tsan_create_fiber(unsigned) __attribute__((weak));
void __tsan_destroy_fiber(void*) __attribute__((weak));
void* __tsan_get_current_fiber() __attribute__((weak));
void __tsan_switch_to_fiber(void*, unsigned) __attribute__((weak));
void __tsan_set_fiber_name(void*, const char*) __attribute__((weak));
void __tsan_acquire(void*) __attribute__((weak));
void __tsan_release(void*) __attribute__((weak));
void AnnotateIgnoreReadsBegin(const char*, int) __attribute__((weak));
void AnnotateIgnoreReadsEnd(const char*, int) __attribute__((weak));
void __asan_poison_memory_region(void const volatile*, size_t) __attribute__((weak));
}

// Saves the callee-saved registers on the running stack and resumes the other one.
asm(R"(
.text
.globl hecate_switch
.hidden hecate_switch
.type hecate_switch,@function
hecate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size hecate_switch,.-hecate_switch
.section .note.GNU-stack,"",@progbits
.text
)");

namespace hecate_host {

namespace {

// Allocating and freeing count as writes for ThreadSanitizer unless accesses are being ignored.
struct Unwatched {
    Unwatched() {
        if (AnnotateIgnoreReadsBegin) AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    }
    ~Unwatched() {
        if (AnnotateIgnoreReadsEnd) AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
};

void acquire(void* token) {
    if (__tsan_acquire) __tsan_acquire(token);
}

void release(void* token) {
    if (__tsan_release) __tsan_release(token);
}

}  // namespace

}  // namespace hecate_host
