// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Measures a balancer with BPF_PROG_TEST_RUN and many repeats. The kernel does not restore the packet between repeats: without this, the
 * second one is fed its own tunnel packet. So each repeat here writes the link header and the flow's source anew, calls the balancer as a
 * function, counts its verdict, and takes the outer header off again.
 */
#include "balance.h"

#define VERDICTS 8

/* What to do, set by user space, and what came out. */
struct harness {
	__u32 flow_mask;  /* flows, a power of two, less one */
	__u32 flow_state; /* the present one */
	__u32 grown;	  /* bytes that a forwarded packet is longer */
	__u32 version;
	__u64 verdicts[VERDICTS];
	__u64 link[2]; /* the 14 bytes of the link header */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct harness);
} harness SEC(".maps");

static __always_inline struct harness *prepare(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct harness *this = bpf_map_lookup_elem(&harness, &zero);
	__u32 flow;

	if (!this || data + 62 > end)
		return 0;
	*(__u64 *)data = this->link[0];
	*(__u32 *)(data + 8) = this->link[1];
	*(__u16 *)(data + 12) = this->link[1] >> 32;
	if (!this->flow_mask)
		return this;
	/* Full period modulo a power of two (Knuth, volume 2, section 3.2.1.2, theorem A); the factor is of Numerical Recipes. */
	this->flow_state = this->flow_state * 1664525 + 1013904223;
	flow = this->flow_state & this->flow_mask;
	if (this->version == 4) {
		*(__u32 *)(data + 26) = bpf_htonl(0x0a000000 | flow >> 8);
		*(__u16 *)(data + 34) = bpf_htons(1024 + (flow & 255));
	} else {
		*(__u32 *)(data + 34) = bpf_htonl(flow >> 8);
		*(__u16 *)(data + 54) = bpf_htons(1024 + (flow & 255));
	}
	return this;
}

static __always_inline int finish(struct xdp_md *ctx, struct harness *this, int verdict)
{
	this->verdicts[verdict & (VERDICTS - 1)] += 1;
	if (verdict == XDP_TX)
		bpf_xdp_adjust_head(ctx, this->grown);
	return verdict;
}

static __noinline int nothing(struct xdp_md *ctx)
{
	return ctx->rx_queue_index ? XDP_DROP : XDP_PASS;
}

/* The floor: an outer header with a fixed destination, and no look-up. */
static __noinline int fixed(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *link;
	struct iphdr *ip;
	__u32 sum = 0;
	__u16 length, *words;
	int i;

	if (data + sizeof(*link) + sizeof(*ip) > end)
		return XDP_PASS;
	ip = data + sizeof(*link);
	length = bpf_htons(bpf_ntohs(ip->tot_len) + sizeof(*ip));
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(*link) + sizeof(*ip) > end)
		return XDP_DROP;
	link = data;
	ip = data + sizeof(*link);
	__builtin_memcpy(link->h_dest, "\x02\x00\x00\x00\x00\x01", ETH_ALEN);
	__builtin_memcpy(link->h_source, "\x02\x00\x00\x00\x00\x02", ETH_ALEN);
	link->h_proto = bpf_htons(ETH_P_IP);
	((__u8 *)ip)[0] = 0x45;
	ip->tos = 0;
	ip->tot_len = length;
	ip->id = 0;
	ip->frag_off = bpf_htons(SG_IP_DO_NOT_FRAGMENT);
	ip->ttl = SG_HOPS;
	ip->protocol = IPPROTO_IPIP;
	ip->check = 0;
	ip->saddr = bpf_htonl(0xc6120001);
	ip->daddr = bpf_htonl(0xc6120015);
	words = (__u16 *)ip;
#pragma unroll
	for (i = 0; i < 10; i++)
		sum += words[i];
	ip->check = ~folded(sum);
	return XDP_TX;
}

static __noinline int subject(struct xdp_md *ctx)
{
	return balance(ctx);
}

#define MEASURED(name, callee)                                  \
	SEC("xdp")                                              \
	int name(struct xdp_md *ctx)                            \
	{                                                       \
		struct harness *this = prepare(ctx);            \
		return this ? finish(ctx, this, callee(ctx)) : XDP_ABORTED; \
	}

MEASURED(measure_nothing, nothing)
MEASURED(measure_floor, fixed)
MEASURED(measure_balance, subject)

/* The program itself, to look at one packet. */
SEC("xdp")
int samegate(struct xdp_md *ctx)
{
	return balance(ctx);
}

char LICENSE[] SEC("license") = "GPL";
