/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From a packet to its VIP, and from a flow to its destination: the table of known flows first, then the ring. */
#ifndef SAMEGATE_FLOW_H
#define SAMEGATE_FLOW_H

#include "maps.h"
#include "parse.h"

/* 2^64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming, volume 3, section 6.4). */
#define SG_GOLDEN 0x9e3779b97f4a7c15ULL
/* Multiplier of Pelle Evensen's rrmxmx family as used for 64-bit words by T. Ettinger (degski). */
#define SG_MIX 0xd6e8feb86659fd93ULL

static __always_inline __u64 mix(__u64 word)
{
	word ^= word >> 32;
	word *= SG_MIX;
	word ^= word >> 32;
	word *= SG_MIX;
	return word ^ word >> 32;
}

static __always_inline struct sg_vip *vip_at(void *table, __u32 place, const struct sg_packet *packet, __u32 service)
{
	struct sg_vip *vip = bpf_map_lookup_elem(table, &place);

	if (vip && vip->service == service && vip->address_low == packet->vip_low &&
	    vip->address_high == packet->vip_high)
		return vip;
	return 0;
}

/* Each VIP stands in one of two places of the table, chosen by user space (cuckoo hashing), so a miss costs two loads. */
static __always_inline struct sg_vip *find_vip(const struct sg_packet *packet, __u32 service)
{
	__u32 zero = 0;
	void *table = bpf_map_lookup_elem(&vips, &zero);
	__u64 hash = packet->vip_high * SG_MIX ^ packet->vip_low ^ (__u64)service << 32;
	struct sg_vip *vip;

	/* What differs most is at the top (the last byte of an address, the port): folded, so that all bits below depend on it too. */
	hash = (hash ^ hash >> 32) * SG_GOLDEN;

	if (!table)
		return 0;
	vip = vip_at(table, hash >> 48 & limits.vip_mask, packet, service);
	return vip ? vip : vip_at(table, hash >> 32 & limits.vip_mask, packet, service);
}

/* The same on every edge node: nothing of it depends on history. */
static __always_inline __u64 flow_hash(const struct sg_vip *vip, const struct sg_packet *packet, __u32 port)
{
	__u64 word = vip->seed;

	if (packet->version == 6)
		word = mix(word ^ packet->client_high);
	return mix(word ^ packet->client_low ^ (__u64)port << 32);
}

/* What tells a flow from all others: exact for IPv4; for IPv6 64 bits of a second hash beside those that chose the set. */
static __always_inline __u64 flow_key(const struct sg_vip *vip, const struct sg_packet *packet, __u32 port)
{
	if (packet->version == 4)
		return packet->client_low | (__u64)port << 32 | (__u64)vip->id << 48;
	return mix(packet->client_high * SG_GOLDEN ^ vip->seed) ^ mix(packet->client_low + SG_GOLDEN * (port + 1));
}

/* Whether a client may use a VIP that not everybody may use. */
static __noinline int may_come(const struct sg_vip *vip, const struct sg_packet *packet)
{
	struct sg_source source = { .bits = 32 + 128 };

	if (!vip || !packet)
		return 0;
	source.vip = vip->id;
	if (packet->version == 4) {
		source.bits = 32 + 32;
		__builtin_memcpy(source.address, &packet->client_low, 4);
	} else {
		__builtin_memcpy(source.address, &packet->client_high, 8);
		__builtin_memcpy(source.address + 8, &packet->client_low, 8);
	}
	return bpf_map_lookup_elem(&sources, &source) != 0;
}

static __always_inline __u32 ring_choice(const struct sg_vip *vip, __u64 hash)
{
	__u32 zero = 0, number = vip->ring;
	void *table = bpf_map_lookup_elem(&rings, &number);
	struct sg_ring *ring;
	__u64 slot = (hash >> 32) * SG_RING_SLOTS >> 32;

	if (!table)
		return 0;
	ring = bpf_map_lookup_elem(table, &zero);
	return ring && slot < SG_RING_SLOTS ? ring->destination[slot] : 0;
}

static __always_inline struct sg_flow_set *flow_set(__u64 hash)
{
	__u32 cpu = bpf_get_smp_processor_id(), set = hash & limits.flow_set_mask;
	void *table = bpf_map_lookup_elem(&flows, &cpu);

	return table ? bpf_map_lookup_elem(table, &set) : 0;
}

static __always_inline struct sg_flow *flow_in(struct sg_flow_set *set, __u64 key)
{
	if (set->flow[0].key == key)
		return &set->flow[0];
	if (set->flow[1].key == key)
		return &set->flow[1];
	if (set->flow[2].key == key)
		return &set->flow[2];
	if (set->flow[3].key == key)
		return &set->flow[3];
	return 0;
}

#endif
