// SPDX-License-Identifier: Apache-2.0
/*
 * Lets User-Mode Linux 6.1 run on processors whose XSAVE area is larger than the 2,696 bytes it reserves for it
 * (Intel AMX: 11,008 bytes). The host kernel refuses a PTRACE_SETREGSET of NT_X86_XSTATE that is not the whole
 * area (EFAULT, arch/x86/kernel/fpu/regset.c, xstateregs_set), and the machine's init dies at once.
 *
 * Preloaded into linux.uml, this reads and writes the whole area and shows UML the part that it knows. Everything
 * up to PKRU lies in that part; the AMX tiles lie behind it, so their two bits are cleared from the header and
 * the machine's programs find AMX unused. On smaller processors both calls pass through unchanged in effect.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define XSTATE_BV_OFFSET 512 /* Intel SDM vol. 1, 13.4.2: the header follows the 512-byte legacy region */
#define XFEATURES_AMX ((UINT64_C(1) << 17) | (UINT64_C(1) << 18)) /* XTILECFG, XTILEDATA */

/* Static, not on the stack: UML calls ptrace on 16 KiB kernel stacks. It is single-threaded there. */
static uint8_t area[65536] __attribute__((aligned(64)));
static size_t area_bytes;

typedef long ptrace_fn(int, pid_t, void *, void *);

static void clear_amx(uint8_t *xstate, size_t bytes)
{
	uint64_t features;

	if (bytes < XSTATE_BV_OFFSET + sizeof(features))
		return;
	memcpy(&features, xstate + XSTATE_BV_OFFSET, sizeof(features));
	features &= ~XFEATURES_AMX;
	memcpy(xstate + XSTATE_BV_OFFSET, &features, sizeof(features));
}

static long read_area(ptrace_fn *next, pid_t pid)
{
	struct iovec whole = {.iov_base = area, .iov_len = sizeof(area)};
	long result = next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole);

	if (result == 0)
		area_bytes = whole.iov_len;
	return result;
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_fn *next;
	va_list arguments;
	pid_t pid;
	void *address, *data;
	struct iovec *part;
	long result;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);

	if (!next)
		next = (ptrace_fn *)dlsym(RTLD_NEXT, "ptrace");
	if ((request != PTRACE_GETREGSET && request != PTRACE_SETREGSET) || address != (void *)NT_X86_XSTATE)
		return next(request, pid, address, data);

	part = data;
	if (request == PTRACE_GETREGSET || !area_bytes) {
		result = read_area(next, pid);
		if (result)
			return result;
	}
	if (part->iov_len > area_bytes)
		part->iov_len = area_bytes;
	if (request == PTRACE_GETREGSET) {
		memcpy(part->iov_base, area, part->iov_len);
		clear_amx(part->iov_base, part->iov_len);
		return 0;
	}

	memset(area, 0, area_bytes);
	memcpy(area, part->iov_base, part->iov_len);
	clear_amx(area, area_bytes);
	struct iovec whole = {.iov_base = area, .iov_len = area_bytes};
	return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &whole);
}
