/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A packet into its tunnel and onto its way: RFC 2003 (IPv4) and RFC 2473 (IPv6). */
#ifndef SAMEGATE_ENCAPSULATE_H
#define SAMEGATE_ENCAPSULATE_H

#include "maps.h"
#include "parse.h"

/* Address families of the FIB look-up; linux/socket.h of user space does not have them. */
#define SG_AF_INET 2
#define SG_AF_INET6 10
/* Hops of the outer header: the default of Linux (net.ipv4.ip_default_ttl). */
#define SG_HOPS 64

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

/* The next hop and device towards a destination's outer header, into `way`. 0, or -1 where there is none now. */
static __noinline int look_up_way(struct xdp_md *ctx, struct sg_traffic *way, const struct sg_destination *destination)
{
	struct bpf_fib_lookup route = { .ifindex = ctx->ingress_ifindex };
	struct sg_link *link;
	__u32 device, answer;
	int i;

	if (!way || !destination)
		return -1;
	if (destination->version == 4) {
		route.family = SG_AF_INET;
		route.ipv4_src = destination->edge[0];
		route.ipv4_dst = destination->worker[0];
	} else {
		route.family = SG_AF_INET6;
		for (i = 0; i < 4; i++) {
			route.ipv6_src[i] = destination->edge[i];
			route.ipv6_dst[i] = destination->worker[i];
		}
	}
	answer = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return -1;
	/* No variable for the key: with it this frame of the stack, rounded up to 32 bytes, is one step larger. */
	link = bpf_map_lookup_elem(&links, &route.ifindex);
	device = link ? link->device : route.ifindex;
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH) {
		/* The kernel is asking for the neighbour anew; it hardly has another address now than a moment ago. */
		if (way->device != device)
			return -1;
		way->looked_up = bpf_jiffies64();
		return 0;
	}
	way->device = device;
	way->tag.protocol = link ? link->tag.protocol : 0;
	way->tag.control = link ? link->tag.control : 0;
	__builtin_memcpy(way->to, route.dmac, sizeof(way->to));
	__builtin_memcpy(way->from, route.smac, sizeof(way->from));
	way->looked_up = bpf_jiffies64();
	return 0;
}

static __always_inline int ensure_way(struct xdp_md *ctx, struct sg_traffic *way, const struct sg_destination *destination)
{
	if (way->device && bpf_jiffies64() - way->looked_up < limits.way_jiffies)
		return 0;
	return look_up_way(ctx, way, destination);
}

static __always_inline void outer_ipv4(struct iphdr *outer, const struct sg_destination *destination, const struct sg_packet *packet)
{
	__u16 length = bpf_htons(packet->bytes + sizeof(*outer));
	/* The sum of the record is that of IPv4 inside. */
	__u32 sum = destination->header_sum + length + bpf_htons(packet->traffic_class);

	((__u8 *)outer)[0] = 0x45;
	outer->tos = packet->traffic_class;
	outer->tot_len = length;
	outer->id = 0;
	outer->frag_off = bpf_htons(SG_IP_DO_NOT_FRAGMENT);
	outer->ttl = SG_HOPS;
	outer->protocol = packet->version == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	outer->saddr = destination->edge[0];
	outer->daddr = destination->worker[0];
	outer->check = ~folded(packet->version == 4 ? sum : sum + bpf_htons(IPPROTO_IPV6 - IPPROTO_IPIP));
}

static __always_inline void outer_ipv6(struct ipv6hdr *outer, const struct sg_destination *destination, const struct sg_packet *packet)
{
	*(__be32 *)outer = bpf_htonl(6U << 28 | (__u32)packet->traffic_class << 20);
	outer->payload_len = bpf_htons(packet->bytes);
	outer->nexthdr = packet->version == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	outer->hop_limit = SG_HOPS;
	__builtin_memcpy(&outer->saddr, destination->edge, sizeof(outer->saddr));
	__builtin_memcpy(&outer->daddr, destination->worker, sizeof(outer->daddr));
}

static __always_inline int send(struct xdp_md *ctx, const struct sg_traffic *way)
{
	return way->device == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(way->device, 0);
}

/* The place of the outer IP header, behind a link header for it; 0 where there is no room. */
static __always_inline void *outer_room(struct xdp_md *ctx, const struct sg_traffic *way, const struct sg_packet *packet, int outer_bytes,
					__u16 protocol)
{
	int link_bytes = sizeof(struct ethhdr), tagged = way->tag.protocol != 0;
	struct ethhdr *link;
	struct sg_vlan *vlan;
	void *data, *end, *outer;

	if (unlikely(tagged))
		link_bytes += sizeof(*vlan);
	if (bpf_xdp_adjust_head(ctx, (int)packet->link_bytes - link_bytes - outer_bytes))
		return 0;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	link = data;
	if (data + sizeof(*link) + sizeof(*vlan) > end)
		return 0;
	__builtin_memcpy(link->h_dest, way->to, ETH_ALEN);
	__builtin_memcpy(link->h_source, way->from, ETH_ALEN);
	if (unlikely(tagged)) {
		vlan = (void *)(link + 1);
		link->h_proto = way->tag.protocol;
		vlan->control = way->tag.control;
		vlan->protocol = protocol;
		outer = vlan + 1;
	} else {
		link->h_proto = protocol;
		outer = link + 1;
	}
	return outer + outer_bytes > end ? 0 : outer;
}

static __always_inline int encapsulate(struct xdp_md *ctx, const struct sg_destination *destination, const struct sg_traffic *way,
				       const struct sg_packet *packet)
{
	void *outer;

	if (destination->version == 4) {
		outer = outer_room(ctx, way, packet, sizeof(struct iphdr), bpf_htons(ETH_P_IP));
		if (!outer)
			return drop(destination->vip, SG_DROP_NO_ROOM);
		outer_ipv4(outer, destination, packet);
		return send(ctx, way);
	}
	outer = outer_room(ctx, way, packet, sizeof(struct ipv6hdr), bpf_htons(ETH_P_IPV6));
	if (!outer)
		return drop(destination->vip, SG_DROP_NO_ROOM);
	outer_ipv6(outer, destination, packet);
	return send(ctx, way);
}

#endif
