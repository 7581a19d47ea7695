/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What happens to each frame: what is for no VIP passes untouched. */
#ifndef SAMEGATE_BALANCE_H
#define SAMEGATE_BALANCE_H

#include "encapsulate.h"
#include "flow.h"

static __always_inline __u16 ticks_now(void)
{
	return bpf_jiffies64() >> SG_TICK_SHIFT;
}

/* Whether so many connections open on this CPU that looking for known ones would only serve a flood. */
static __always_inline int flooded(void)
{
	struct sg_openings *now;
	__u64 jiffy = bpf_jiffies64();
	__u32 zero = 0;

	now = bpf_map_lookup_elem(&openings, &zero);
	if (!now)
		return 0;
	if (now->jiffy != jiffy) {
		now->jiffy = jiffy;
		now->count = 0;
	}
	now->count += 1;
	return now->count > limits.openings;
}

/* The destination that a place names, when it is the one that was meant. */
static __always_inline struct sg_destination *destination_at(__u32 number)
{
	struct sg_destination *destination = bpf_map_lookup_elem(&destinations, &number);

	return destination && destination->generation ? destination : 0;
}

/* Room for a new flow: an empty place, else one that never had a second packet, else any. */
static __always_inline struct sg_flow *flow_room(struct sg_flow_set *set, __u64 hash)
{
	int i;

	for (i = 0; i < SG_FLOWS_PER_SET; i++)
		if (!set->flow[i].key)
			return &set->flow[i];
	for (i = 0; i < SG_FLOWS_PER_SET; i++)
		if (!set->flow[i].stamp)
			return &set->flow[i];
	return &set->flow[(hash >> 40 ^ bpf_jiffies64()) & (SG_FLOWS_PER_SET - 1)];
}

static __always_inline int forward(struct xdp_md *ctx, const struct sg_destination *destination, struct sg_traffic *traffic_here,
				   const struct sg_packet *packet)
{
	__u32 overhead = destination->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (packet->bytes + overhead > limits.mtu)
		return drop(SG_DROP_TOO_BIG);
	if (ensure_way(ctx, traffic_here, destination))
		return drop(SG_DROP_NO_ROUTE);
	traffic_here->packets += 1;
	traffic_here->bytes += packet->bytes;
	return encapsulate(ctx, destination, traffic_here, packet);
}

static __always_inline int balance_packet(struct xdp_md *ctx, const struct sg_packet *packet)
{
	struct sg_vip *vip = find_vip(packet, packet->service);
	struct sg_destination *destination;
	struct sg_traffic *counted;
	struct sg_flow_set *set = 0;
	struct sg_flow *flow = 0;
	__u32 port, chosen;
	__u64 hash, key = 0;

	if (!vip)
		return XDP_PASS;
	port = vip->flags & SG_VIP_AFFINITY ? 0 : packet->client_port;
	hash = flow_hash(vip, packet, port);
	if (!(vip->flags & SG_VIP_STATELESS) && !(packet->opens && flooded())) {
		set = flow_set(hash);
		key = flow_key(vip, packet, port);
		if (set)
			flow = flow_in(set, key);
	}
	if (flow && !packet->opens) {
		destination = destination_at(flow->destination);
		if (destination && (__u16)destination->generation == flow->generation) {
			counted = bpf_map_lookup_elem(&traffic, &flow->destination);
			if (!counted)
				return drop(SG_DROP_NO_DESTINATION);
			if (packet->protocol == IPPROTO_TCP) {
				if (!flow->stamp)
					flow->stamp = 1;
				counted->table_hits += 1;
				return forward(ctx, destination, counted, packet);
			}
			__u16 now = ticks_now();

			if ((__u16)(now - flow->stamp) < limits.udp_ticks) {
				if (flow->stamp != now)
					flow->stamp = now;
				counted->table_hits += 1;
				return forward(ctx, destination, counted, packet);
			}
		}
	}
	chosen = ring_choice(vip, hash);
	destination = destination_at(chosen);
	counted = bpf_map_lookup_elem(&traffic, &chosen);
	if (!destination || !counted)
		return drop(SG_DROP_NO_DESTINATION);
	/* A connection that opens is not stored, so a flood of them evicts nobody; one that was known goes where the new one goes. */
	if (packet->opens) {
		counted->new_flows += 1;
		if (flow) {
			flow->destination = chosen;
			flow->generation = destination->generation;
		}
	} else if (set) {
		if (!flow)
			flow = flow_room(set, hash);
		flow->key = key;
		flow->destination = chosen;
		flow->generation = destination->generation;
		flow->stamp = packet->protocol == IPPROTO_TCP ? 0 : ticks_now();
		if (packet->protocol != IPPROTO_TCP)
			counted->new_flows += 1;
	}
	return forward(ctx, destination, counted, packet);
}

static __always_inline int balance_ipv4(struct xdp_md *ctx, void *data, void *end)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct sg_packet packet = { .version = 4, .link_bytes = sizeof(struct ethhdr) };

	if ((void *)(ip + 1) > end)
		return XDP_PASS;
	packet.protocol = ip->protocol;
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP)
		return XDP_PASS;
	packet.client_low = ip->saddr;
	packet.vip_low = ip->daddr;
	packet.traffic_class = ip->tos;
	packet.bytes = bpf_ntohs(ip->tot_len);
	if (((__u8 *)ip)[0] != 0x45 || ip->frag_off & bpf_htons(SG_IP_OFFSET_OR_MORE)) {
		if (!find_vip(&packet, service_of(0, 0, 4)))
			return XDP_PASS;
		return drop(((__u8 *)ip)[0] != 0x45 ? SG_DROP_OPTIONS : SG_DROP_FRAGMENT);
	}
	if (parse_ports(&packet, ip + 1, end))
		return XDP_PASS;
	return balance_packet(ctx, &packet);
}

static __always_inline int balance_ipv6(struct xdp_md *ctx, void *data, void *end)
{
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	struct sg_packet packet = { .version = 6, .link_bytes = sizeof(struct ethhdr) };

	if ((void *)(ip + 1) > end)
		return XDP_PASS;
	packet.protocol = ip->nexthdr;
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP)
		return XDP_PASS;
	packet.client_high = *(__u64 *)&ip->saddr.s6_addr32[0];
	packet.client_low = *(__u64 *)&ip->saddr.s6_addr32[2];
	packet.vip_high = *(__u64 *)&ip->daddr.s6_addr32[0];
	packet.vip_low = *(__u64 *)&ip->daddr.s6_addr32[2];
	packet.traffic_class = bpf_ntohl(*(__be32 *)ip) >> 20;
	packet.bytes = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (parse_ports(&packet, ip + 1, end))
		return XDP_PASS;
	return balance_packet(ctx, &packet);
}

static __always_inline int balance(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *link = data;

	if ((void *)(link + 1) > end)
		return XDP_PASS;
	if (link->h_proto == bpf_htons(ETH_P_IP))
		return balance_ipv4(ctx, data, end);
	if (link->h_proto == bpf_htons(ETH_P_IPV6))
		return balance_ipv6(ctx, data, end);
	return XDP_PASS;
}

#endif
