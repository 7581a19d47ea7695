/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the program says itself, out of the packet that it answers: echo replies, and "too big" (RFC 792, 1191, 1812, 4443). */
#ifndef SAMEGATE_ANSWER_H
#define SAMEGATE_ANSWER_H

#include "encapsulate.h"
#include "maps.h"
#include "parse.h"

/* Of RFC 1812 section 4.3.2.3: a message of 576 bytes at most; of RFC 4443 section 2.4 (c): of 1280. Both less their headers. */
#define SG_QUOTE_IPV4 548
#define SG_QUOTE_IPV6 1232
/* bpf_csum_diff() takes so many bytes at once. */
#define SG_SUM_BYTES 512
/* Precedence "internetwork control" (RFC 1812 section 4.3.2.5). */
#define SG_TOS_CONTROL 0xc0

/* The checksum after one word has changed (RFC 1624, equation 3). Of the two zeros, all ones is right also where everything else is zero. */
static __always_inline __u16 changed_sum(__u16 check, __u16 from, __u16 to)
{
	__u16 sum = ~folded((__u16)~check + (__u16)~from + to);

	return sum ? sum : 0xffff;
}

static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < 10; i++)
		sum += words[i];
	return ~folded(sum);
}

static __always_inline __u16 folded_wide(__s64 sum)
{
	__u32 low = (__u32)sum;

	return folded((low & 0xffff) + (low >> 16));
}

/* One's complement sum of a constant number of bytes of a packet. */
static __always_inline __s64 sum_of(void *at, __u32 bytes, __s64 seed)
{
	__u32 done;

#pragma unroll
	for (done = 0; done + SG_SUM_BYTES < bytes; done += SG_SUM_BYTES)
		seed = bpf_csum_diff(0, 0, at + done, SG_SUM_BYTES, seed);
	return bpf_csum_diff(0, 0, at + done, bytes - done, seed);
}

/* Whether less than so many of these were counted in this jiffy on this CPU; counts one more. */
static __always_inline int within(__u32 paced, __u32 most)
{
	struct sg_pace *now = bpf_map_lookup_elem(&pace, &paced);
	__u64 jiffy = bpf_jiffies64();

	if (!now)
		return 0;
	if (now->jiffy != jiffy) {
		now->jiffy = jiffy;
		now->count = 0;
	}
	now->count += 1;
	return now->count <= most;
}

static __always_inline void turn_round(struct ethhdr *link)
{
	__u8 to[ETH_ALEN];

	__builtin_memcpy(to, link->h_source, ETH_ALEN);
	__builtin_memcpy(link->h_source, link->h_dest, ETH_ALEN);
	__builtin_memcpy(link->h_dest, to, ETH_ALEN);
}

/* Only what was sent to us alone is answered. */
static __always_inline int to_us(const struct ethhdr *link)
{
	return !(link->h_dest[0] & 1);
}

static __always_inline int answer_echo_ipv4(struct ethhdr *link, struct iphdr *ip, struct sg_icmp *icmp)
{
	__u32 vip = ip->daddr;
	__u16 *first = (void *)icmp, was = *first;

	if (!to_us(link))
		return XDP_PASS;
	turn_round(link);
	ip->daddr = ip->saddr;
	ip->saddr = vip;
	ip->ttl = SG_HOPS;
	ip->check = 0;
	ip->check = header_sum(ip);
	icmp->type = SG_ICMP_ECHO_REPLY;
	icmp->checksum = changed_sum(icmp->checksum, was, *first);
	return XDP_TX;
}

static __always_inline int answer_echo_ipv6(struct ethhdr *link, struct ipv6hdr *ip, struct sg_icmp *icmp)
{
	struct in6_addr vip = ip->daddr;
	__u16 *first = (void *)icmp, was = *first;

	if (!to_us(link))
		return XDP_PASS;
	turn_round(link);
	ip->daddr = ip->saddr;
	ip->saddr = vip;
	ip->hop_limit = SG_HOPS;
	icmp->type = SG_ICMP6_ECHO_REPLY;
	icmp->checksum = changed_sum(icmp->checksum, was, *first);
	return XDP_TX;
}

/* Cut the packet to what is quoted, and make room in front of it. 0, or -1 where it is shorter than it says. */
static __always_inline int cut_and_grow(struct xdp_md *ctx, __u32 link_bytes, int quote, int grow)
{
	int bytes = (int)(ctx->data_end - ctx->data);

	if (bytes < (int)link_bytes + quote)
		return -1;
	if (bpf_xdp_adjust_tail(ctx, (int)link_bytes + quote - bytes))
		return -1;
	return bpf_xdp_adjust_head(ctx, -grow) ? -1 : 0;
}

/* The link header in front of the message: that of the packet, the other way round, with its tags. */
static __always_inline void link_back(void *data, void *old)
{
	struct ethhdr *link = data, *was = old;

	/* With less than two tags these are bytes of the IP header too, which comes here next. */
	__builtin_memcpy(data, old, SG_LINK_BYTES_MOST);
	__builtin_memcpy(link->h_dest, was->h_source, ETH_ALEN);
	__builtin_memcpy(link->h_source, was->h_dest, ETH_ALEN);
}

/* The place of a message's IP header, with the packet that it quotes behind its own headers; 0 where that is too short. */
static __always_inline void *message_room(struct xdp_md *ctx, __u32 link_bytes, int quote, int grow)
{
	void *data, *end, *ip;

	if (cut_and_grow(ctx, link_bytes, quote, grow))
		return 0;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + grow + SG_LINK_BYTES_MOST > end)
		return 0;
	link_back(data, data + grow);
	ip = data + link_bytes;
	return ip + grow + quote > end ? 0 : ip;
}

static __noinline int tell_too_big_ipv4(struct xdp_md *ctx, __u32 link_bytes, __u32 mtu, __u32 vip)
{
	const int grow = sizeof(struct iphdr) + sizeof(struct sg_icmp);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + link_bytes, *quoted;
	struct sg_icmp *icmp;
	__u8 first;

	if (link_bytes > SG_LINK_BYTES_MOST || data + sizeof(struct ethhdr) > end || (void *)(ip + 1) > end)
		return drop(vip, SG_DROP_TOO_BIG);
	if (!to_us(data) || !(ip->frag_off & bpf_htons(SG_IP_DO_NOT_FRAGMENT)))
		return drop(vip, SG_DROP_TOO_BIG);
	first = ip->saddr;
	/* RFC 1122 section 3.2.2: not to an address that is no single host. */
	if (first == 0 || first == 127 || first >= 224 || !within(SG_PACE_MESSAGES, limits.messages))
		return drop(vip, SG_DROP_TOO_BIG);
	ip = message_room(ctx, link_bytes, SG_QUOTE_IPV4, grow);
	if (!ip)
		return drop(vip, SG_DROP_TOO_BIG);
	icmp = (void *)(ip + 1);
	quoted = (void *)(icmp + 1);
	((__u8 *)ip)[0] = 0x45;
	ip->tos = SG_TOS_CONTROL;
	ip->tot_len = bpf_htons(grow + SG_QUOTE_IPV4);
	ip->id = 0;
	ip->frag_off = bpf_htons(SG_IP_DO_NOT_FRAGMENT);
	ip->ttl = SG_HOPS;
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	ip->saddr = quoted->daddr;
	ip->daddr = quoted->saddr;
	ip->check = header_sum(ip);
	icmp->type = SG_ICMP_UNREACHABLE;
	icmp->code = SG_ICMP_UNREACHABLE_TOO_BIG;
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(mtu);
	icmp->checksum = ~folded_wide(sum_of(icmp, sizeof(*icmp) + SG_QUOTE_IPV4, 0));
	count_drop(vip, SG_DROP_TOO_BIG);
	return XDP_TX;
}

static __noinline int tell_too_big_ipv6(struct xdp_md *ctx, __u32 link_bytes, __u32 mtu, __u32 vip)
{
	const int grow = sizeof(struct ipv6hdr) + sizeof(struct sg_icmp);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + link_bytes, *quoted;
	struct sg_icmp *icmp;
	__be32 pseudo[2] = { bpf_htonl(sizeof(*icmp) + SG_QUOTE_IPV6), bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum;

	if (link_bytes > SG_LINK_BYTES_MOST || data + sizeof(struct ethhdr) > end || (void *)(ip + 1) > end || !to_us(data))
		return drop(vip, SG_DROP_TOO_BIG);
	/* RFC 4443 section 2.4 (e.6): not to an address that is no single node. */
	if (ip->saddr.s6_addr[0] == 0xff || ip->saddr.s6_addr32[0] == 0 || !within(SG_PACE_MESSAGES, limits.messages))
		return drop(vip, SG_DROP_TOO_BIG);
	ip = message_room(ctx, link_bytes, SG_QUOTE_IPV6, grow);
	if (!ip)
		return drop(vip, SG_DROP_TOO_BIG);
	icmp = (void *)(ip + 1);
	quoted = (void *)(icmp + 1);
	*(__be32 *)ip = bpf_htonl(6U << 28);
	ip->payload_len = bpf_htons(sizeof(*icmp) + SG_QUOTE_IPV6);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = SG_HOPS;
	ip->saddr = quoted->daddr;
	ip->daddr = quoted->saddr;
	icmp->type = SG_ICMP6_TOO_BIG;
	icmp->code = 0;
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(mtu);
	sum = sum_of(&ip->saddr, 2 * sizeof(ip->saddr), bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), 0));
	icmp->checksum = ~folded_wide(sum_of(icmp, sizeof(*icmp) + SG_QUOTE_IPV6, sum));
	count_drop(vip, SG_DROP_TOO_BIG);
	return XDP_TX;
}

#endif
