/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Frames of chosen VIPs into a ring for user space. Nothing here is reached for a VIP that nobody chose. */
#ifndef SAMEGATE_CAPTURE_H
#define SAMEGATE_CAPTURE_H

#include "maps.h"
#include "parse.h"

/* Whether one more packet is to be seen; counts it. */
static __noinline int capture_wanted(void)
{
	__u32 zero = 0;
	struct sg_capture *now = bpf_map_lookup_elem(&capture, &zero);

	if (!now || now->taken >= now->most || bpf_ktime_get_ns() >= now->until)
		return 0;
	if (now->one_in > 1 && bpf_get_prandom_u32() % now->one_in)
		return 0;
	/* Without asking what it was before, which takes Linux 5.12. */
	__sync_fetch_and_add(&now->taken, 1);
	return 1;
}

/*
 * Put the frame as it is now into the ring. Copied by words, and then by the last one alone, which overlaps the one before: byte for byte the
 * verifier would walk through as many ends as there are bytes.
 */
static __noinline void capture_frame(struct xdp_md *ctx, __u32 verdict)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *from;
	struct sg_captured *frame = bpf_ringbuf_reserve(&captured, sizeof(*frame), 0);
	struct sg_capture *now;
	__u32 zero = 0, at, last;

	if (!frame) {
		now = bpf_map_lookup_elem(&capture, &zero);
		if (now)
			__sync_fetch_and_add(&now->lost, 1);
		return;
	}
	frame->nanoseconds = bpf_ktime_get_ns();
	frame->verdict = verdict;
	frame->device = ctx->ingress_ifindex;
	frame->cpu = bpf_get_smp_processor_id();
	frame->bytes = ctx->data_end - ctx->data;
	for (at = 0; at < SG_CAPTURE_BYTES; at += sizeof(__u64)) {
		from = data + at;
		if (from + sizeof(__u64) > end)
			break;
		*(__u64 *)(frame->frame + at) = *(__u64 *)from;
	}
	last = frame->bytes - sizeof(__u64);
	if (last > SG_CAPTURE_BYTES - sizeof(__u64))
		last = SG_CAPTURE_BYTES - sizeof(__u64);
	from = data + last;
	if (from + sizeof(__u64) <= end)
		*(__u64 *)(frame->frame + last) = *(__u64 *)from;
	bpf_ringbuf_submit(frame, 0);
}

/* A packet as it came, where somebody wants to see it; whether that is so. */
static __always_inline int capture_begins(struct xdp_md *ctx, const struct sg_vip *vip)
{
	if (!unlikely(vip->flags & SG_VIP_CAPTURED) || !capture_wanted())
		return 0;
	capture_frame(ctx, SG_CAME);
	return 1;
}

/* And what became of it; the verdict. */
static __always_inline int capture_ends(struct xdp_md *ctx, int seen, int verdict)
{
	if (unlikely(seen))
		capture_frame(ctx, verdict);
	return verdict;
}

#endif
