/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What happens to each frame: what is for no VIP passes untouched. */
#ifndef SAMEGATE_BALANCE_H
#define SAMEGATE_BALANCE_H

#include "answer.h"
#include "capture.h"
#include "encapsulate.h"
#include "flow.h"

/* Extension headers before TCP or UDP, and bytes up to these, link header included; real packets have one of them or two. */
#define SG_EXTENSIONS 6
#define SG_EXTENSION_BYTES 512

static __always_inline __u16 ticks_now(void)
{
	return bpf_jiffies64() >> SG_TICK_SHIFT;
}

static __always_inline __u32 udp_ticks(void)
{
	__u32 zero = 0;
	struct sg_timeouts *set = bpf_map_lookup_elem(&timeouts, &zero);

	return set ? set->udp_ticks : 0;
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

	if (unlikely(packet->bytes + overhead > limits.mtu)) {
		if (packet->quoted)
			return drop(destination->vip, SG_DROP_TOO_BIG);
		return packet->version == 4 ? tell_too_big_ipv4(ctx, packet->link_bytes, limits.mtu - overhead, destination->vip) :
					      tell_too_big_ipv6(ctx, packet->link_bytes, limits.mtu - overhead, destination->vip);
	}
	if (ensure_way(ctx, traffic_here, destination))
		return drop(destination->vip, SG_DROP_NO_ROUTE);
	traffic_here->packets += 1;
	traffic_here->bytes += packet->bytes;
	return encapsulate(ctx, destination, traffic_here, packet);
}

static __always_inline int balance_vip(struct xdp_md *ctx, const struct sg_packet *packet, const struct sg_vip *vip)
{
	struct sg_destination *destination;
	struct sg_traffic *counted;
	struct sg_flow_set *set = 0;
	struct sg_flow *flow = 0;
	__u32 port, chosen;
	__u64 hash, key = 0;
	__u16 now = 0;

	port = vip->flags & SG_VIP_AFFINITY ? 0 : packet->client_port;
	hash = flow_hash(vip, packet, port);
	if (!(vip->flags & SG_VIP_STATELESS) && !(packet->opens && !within(SG_PACE_OPENINGS, limits.openings))) {
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
				return drop(destination->vip, SG_DROP_NO_DESTINATION);
			if (packet->protocol == IPPROTO_TCP) {
				if (!flow->stamp)
					flow->stamp = 1;
				counted->table_hits += 1;
				return forward(ctx, destination, counted, packet);
			}
			now = ticks_now();
			if ((__u16)(now - flow->stamp) < udp_ticks()) {
				if (flow->stamp != now)
					flow->stamp = now;
				counted->table_hits += 1;
				return forward(ctx, destination, counted, packet);
			}
		}
	}
	chosen = ring_choice(vip, hash);
	if (!chosen)
		return drop(vip->id, SG_DROP_NO_DESTINATION);
	destination = destination_at(chosen);
	counted = bpf_map_lookup_elem(&traffic, &chosen);
	/* A table that was swapped in between. To keep the VIP at hand for it would cost every packet. */
	if (!destination || !counted)
		return drop(0, SG_DROP_NO_DESTINATION);
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

static __noinline int tagged_ipv4(struct xdp_md *ctx, __u32 link_bytes);
static __noinline int other_ipv6(struct xdp_md *ctx, __u32 link_bytes);

/* A frame without tags: of what is in the packet, the verifier does not remember numbers. */
static __always_inline int balance_packet(struct xdp_md *ctx, const struct sg_packet *packet)
{
	struct sg_vip *vip = find_vip(packet, packet->service);

	if (!vip)
		return XDP_PASS;
	/* One question for both, so that a capture of other VIPs, or none, costs this one nothing. */
	if (unlikely(vip->flags & (SG_VIP_LIMITED | SG_VIP_CAPTURED))) {
		/* The way of packets that are seldom, from the headers on: were the packet handed over, it would be in memory for all others too. */
		if (vip->flags & SG_VIP_CAPTURED)
			return packet->version == 4 ? tagged_ipv4(ctx, sizeof(struct ethhdr)) : other_ipv6(ctx, sizeof(struct ethhdr));
		if (!may_come(vip, packet))
			return drop(vip->id, SG_DROP_SOURCE);
	}
	return balance_vip(ctx, packet, vip);
}

/* The same, for packets that are seldom, or that somebody wants to see: not to have all of it in the program once for each of their kinds. */
static __noinline int balance_seldom(struct xdp_md *ctx, const struct sg_packet *packet)
{
	int verdict, seen;
	struct sg_vip *vip;

	if (!packet)
		return XDP_PASS;
	vip = find_vip(packet, packet->service);
	if (!vip)
		return XDP_PASS;
	seen = capture_begins(ctx, vip);
	if (vip->flags & SG_VIP_LIMITED && !may_come(vip, packet))
		verdict = drop(vip->id, SG_DROP_SOURCE);
	else
		verdict = balance_vip(ctx, packet, vip);
	return capture_ends(ctx, seen, verdict);
}

/* An ICMP error goes where the packet goes that it quotes, and leaves no trace in the table. */
static __always_inline int forward_quoted(struct xdp_md *ctx, const struct sg_packet *packet, const struct sg_vip *vip)
{
	struct sg_destination *destination = 0;
	struct sg_flow_set *set;
	struct sg_flow *flow = 0;
	struct sg_traffic *counted;
	__u32 port, chosen = 0;
	__u64 hash;

	port = vip->flags & SG_VIP_AFFINITY ? 0 : packet->client_port;
	hash = flow_hash(vip, packet, port);
	set = vip->flags & SG_VIP_STATELESS ? 0 : flow_set(hash);
	if (set)
		flow = flow_in(set, flow_key(vip, packet, port));
	if (flow) {
		chosen = flow->destination;
		destination = destination_at(chosen);
		if (destination && (__u16)destination->generation != flow->generation)
			destination = 0;
	}
	if (!destination) {
		chosen = ring_choice(vip, hash);
		destination = destination_at(chosen);
	}
	counted = bpf_map_lookup_elem(&traffic, &chosen);
	if (!destination || !counted)
		return drop(vip->id, SG_DROP_NO_DESTINATION);
	return forward(ctx, destination, counted, packet);
}

static __noinline int balance_quoted(struct xdp_md *ctx, const struct sg_packet *packet)
{
	int verdict, seen;
	struct sg_vip *vip;

	if (!packet)
		return XDP_PASS;
	vip = find_vip(packet, packet->service);
	if (!vip)
		return XDP_PASS;
	seen = capture_begins(ctx, vip);
	verdict = forward_quoted(ctx, packet, vip);
	return capture_ends(ctx, seen, verdict);
}

/* Whether ICMP of this type says that a packet of ours did not arrive as it was sent (RFC 792). */
static __always_inline int is_error_ipv4(__u8 type)
{
	return type == SG_ICMP_UNREACHABLE || type == SG_ICMP_TIME_EXCEEDED || type == SG_ICMP_PARAMETER_PROBLEM;
}

static __noinline int icmp_ipv4(struct xdp_md *ctx, __u32 link_bytes)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct sg_packet packet = { .version = 4, .link_bytes = link_bytes, .quoted = 1 };
	struct iphdr *ip = data + link_bytes, *inner;
	struct sg_icmp *icmp;
	struct sg_vip *vip;
	__u32 inner_bytes;
	__u16 *ports;

	if ((void *)(ip + 1) > end)
		return XDP_PASS;
	packet.vip_low = ip->daddr;
	vip = find_vip(&packet, service_of(0, 0, 4));
	if (!vip)
		return XDP_PASS;
	if (((__u8 *)ip)[0] != 0x45)
		return drop(vip->id, SG_DROP_OPTIONS);
	if (ip->frag_off & bpf_htons(SG_IP_OFFSET_OR_MORE))
		return drop(vip->id, SG_DROP_FRAGMENT);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return XDP_PASS;
	if (icmp->type == SG_ICMP_ECHO && limits.echo)
		return answer_echo_ipv4(data, ip, icmp);
	inner = (void *)(icmp + 1);
	if (!is_error_ipv4(icmp->type) || (void *)(inner + 1) > end)
		return XDP_PASS;
	/* The packet that it quotes is one of ours only if we are where it came from. */
	if (inner->saddr != ip->daddr || inner->frag_off & bpf_htons(SG_IP_OFFSET))
		return XDP_PASS;
	inner_bytes = (((__u8 *)inner)[0] & 15) * 4;
	if (((__u8 *)inner)[0] >> 4 != 4 || inner_bytes < sizeof(*inner))
		return XDP_PASS;
	/* Of the header inside there may be 8 bytes and no more (RFC 792); the ports are the first four. */
	ports = (void *)inner + inner_bytes;
	if ((void *)(ports + 2) > end || (inner->protocol != IPPROTO_TCP && inner->protocol != IPPROTO_UDP))
		return XDP_PASS;
	packet.protocol = inner->protocol;
	packet.client_low = inner->daddr;
	packet.client_port = ports[1];
	packet.service = service_of(ports[0], packet.protocol, 4);
	packet.traffic_class = ip->tos;
	packet.bytes = bpf_ntohs(ip->tot_len);
	return balance_quoted(ctx, &packet);
}

static __noinline int icmp_ipv6(struct xdp_md *ctx, struct sg_packet *packet, __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct sg_icmp *icmp = data + at;
	struct ipv6hdr *ip, *inner;
	__u16 *ports;

	if (!packet || at > SG_EXTENSION_BYTES || (void *)(icmp + 1) > end)
		return XDP_PASS;
	if (icmp->type == SG_ICMP6_ECHO && limits.echo) {
		ip = data + packet->link_bytes;
		/* Extension headers would come back with the answer. */
		if (packet->link_bytes > SG_LINK_BYTES_MOST || data + sizeof(struct ethhdr) > end || (void *)(ip + 1) > end)
			return XDP_PASS;
		if (ip->nexthdr != IPPROTO_ICMPV6)
			return XDP_PASS;
		return answer_echo_ipv6(data, ip, icmp);
	}
	inner = (void *)(icmp + 1);
	ports = (void *)(inner + 1);
	/* Errors are 1 to 127, and 1 to 4 are those that RFC 4443 has. */
	if (!icmp->type || icmp->type > SG_ICMP6_PARAMETER_PROBLEM || (void *)(ports + 2) > end)
		return XDP_PASS;
	if (*(__u64 *)&inner->saddr.s6_addr32[0] != packet->vip_high || *(__u64 *)&inner->saddr.s6_addr32[2] != packet->vip_low)
		return XDP_PASS;
	if (inner->nexthdr != IPPROTO_TCP && inner->nexthdr != IPPROTO_UDP)
		return XDP_PASS;
	packet->protocol = inner->nexthdr;
	packet->client_high = *(__u64 *)&inner->daddr.s6_addr32[0];
	packet->client_low = *(__u64 *)&inner->daddr.s6_addr32[2];
	packet->client_port = ports[1];
	packet->service = service_of(ports[0], packet->protocol, 6);
	packet->quoted = 1;
	return balance_quoted(ctx, packet);
}

static __always_inline void ends_ipv6(struct sg_packet *packet, struct ipv6hdr *ip)
{
	packet->client_high = *(__u64 *)&ip->saddr.s6_addr32[0];
	packet->client_low = *(__u64 *)&ip->saddr.s6_addr32[2];
	packet->vip_high = *(__u64 *)&ip->daddr.s6_addr32[0];
	packet->vip_low = *(__u64 *)&ip->daddr.s6_addr32[2];
	packet->traffic_class = bpf_ntohl(*(__be32 *)ip) >> 20;
	packet->bytes = bpf_ntohs(ip->payload_len) + sizeof(*ip);
}

/* IPv6 that is tagged, or whose next header is neither TCP nor UDP: extension headers (RFC 8200 section 4) in front of them, or ICMP. */
static __noinline int other_ipv6(struct xdp_md *ctx, __u32 link_bytes)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct sg_packet packet = { .version = 6, .link_bytes = link_bytes };
	struct ipv6hdr *ip = data + link_bytes;
	struct ipv6_opt_hdr *extension;
	struct sg_vip *vip;
	__u32 at = link_bytes + sizeof(*ip);
	__u8 next;
	int i;

	if ((void *)(ip + 1) > end)
		return XDP_PASS;
	ends_ipv6(&packet, ip);
	vip = find_vip(&packet, service_of(0, 0, 6));
	if (!vip)
		return XDP_PASS;
	next = ip->nexthdr;
	for (i = 0; i < SG_EXTENSIONS; i++) {
		if (next == IPPROTO_FRAGMENT)
			return drop(vip->id, SG_DROP_FRAGMENT);
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			break;
		extension = data + at;
		if ((void *)(extension + 1) > end)
			return XDP_PASS;
		next = extension->nexthdr;
		at += 8 + extension->hdrlen * 8;
		if (at > SG_EXTENSION_BYTES)
			return drop(vip->id, SG_DROP_OPTIONS);
	}
	if (i == SG_EXTENSIONS)
		return drop(vip->id, SG_DROP_OPTIONS);
	if (next == IPPROTO_ICMPV6)
		return icmp_ipv6(ctx, &packet, at);
	packet.protocol = next;
	if ((next != IPPROTO_TCP && next != IPPROTO_UDP) || parse_ports(&packet, data + at, end))
		return XDP_PASS;
	return balance_seldom(ctx, &packet);
}

static __always_inline int balance_ipv4(struct xdp_md *ctx, void *at, void *end, __u32 link_bytes, int seldom)
{
	struct iphdr *ip = at;
	struct sg_packet packet = { .version = 4, .link_bytes = link_bytes };
	struct sg_vip *vip;

	if ((void *)(ip + 1) > end)
		return XDP_PASS;
	packet.protocol = ip->protocol;
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP)
		return packet.protocol == IPPROTO_ICMP && !seldom ? icmp_ipv4(ctx, link_bytes) : XDP_PASS;
	packet.client_low = ip->saddr;
	packet.vip_low = ip->daddr;
	packet.traffic_class = ip->tos;
	packet.bytes = bpf_ntohs(ip->tot_len);
	if (((__u8 *)ip)[0] != 0x45 || ip->frag_off & bpf_htons(SG_IP_OFFSET_OR_MORE)) {
		vip = find_vip(&packet, service_of(0, 0, 4));
		if (!vip)
			return XDP_PASS;
		return ((__u8 *)ip)[0] != 0x45 ? drop(vip->id, SG_DROP_OPTIONS) : drop(vip->id, SG_DROP_FRAGMENT);
	}
	if (parse_ports(&packet, ip + 1, end))
		return XDP_PASS;
	return seldom ? balance_seldom(ctx, &packet) : balance_packet(ctx, &packet);
}

/* TCP and UDP only. */
static __noinline int tagged_ipv4(struct xdp_md *ctx, __u32 link_bytes)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return balance_ipv4(ctx, data + link_bytes, end, link_bytes, 1);
}

static __always_inline int balance_ipv6(struct xdp_md *ctx, void *at, void *end, __u32 link_bytes)
{
	struct ipv6hdr *ip = at;
	struct sg_packet packet = { .version = 6, .link_bytes = link_bytes };

	if ((void *)(ip + 1) > end)
		return XDP_PASS;
	packet.protocol = ip->nexthdr;
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP)
		return other_ipv6(ctx, link_bytes);
	ends_ipv6(&packet, ip);
	if (parse_ports(&packet, ip + 1, end))
		return XDP_PASS;
	return balance_packet(ctx, &packet);
}

static __always_inline int is_tag(__u16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* A frame with tags. They do not come along: the way to the worker says which VLAN, if any. The stack of a chain of calls is 512 bytes: none here. */
static __noinline int balance_tagged(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct sg_vlan *vlan = data + sizeof(struct ethhdr);
	__u32 link_bytes = sizeof(struct ethhdr) + sizeof(*vlan);
	struct iphdr *ip;
	__u16 protocol;

	if ((void *)(vlan + 1) > end)
		return XDP_PASS;
	protocol = vlan->protocol;
	if (is_tag(protocol)) {
		vlan += 1;
		if ((void *)(vlan + 1) > end)
			return XDP_PASS;
		protocol = vlan->protocol;
		link_bytes += sizeof(*vlan);
	}
	if (protocol == bpf_htons(ETH_P_IP)) {
		ip = (void *)(vlan + 1);
		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		return ip->protocol == IPPROTO_ICMP ? icmp_ipv4(ctx, link_bytes) : tagged_ipv4(ctx, link_bytes);
	}
	if (protocol == bpf_htons(ETH_P_IPV6))
		return other_ipv6(ctx, link_bytes);
	return XDP_PASS;
}

static __always_inline int balance(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *link = data;

	if ((void *)(link + 1) > end)
		return XDP_PASS;
	if (link->h_proto == bpf_htons(ETH_P_IP))
		return balance_ipv4(ctx, link + 1, end, sizeof(*link), 0);
	if (link->h_proto == bpf_htons(ETH_P_IPV6))
		return balance_ipv6(ctx, link + 1, end, sizeof(*link));
	return is_tag(link->h_proto) ? balance_tagged(ctx) : XDP_PASS;
}

#endif
