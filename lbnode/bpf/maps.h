/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The maps. User space sets their sizes before loading; arrays only, because their look-up is compiled into the program. */
#ifndef SAMEGATE_MAPS_H
#define SAMEGATE_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "record.h"

/* Mapped arrays begin on a page, so a value of 64 bytes is one cache line. */
struct sg_vip_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct sg_vip));
};

/* One place: the table in force. A new one takes its place in one step. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct sg_vip_table);
} vips SEC(".maps");

struct sg_ring_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct sg_ring));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__array(values, struct sg_ring_table);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct sg_destination);
} destinations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct sg_traffic);
} traffic SEC(".maps");

struct sg_flow_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct sg_flow_set));
};

/* What is bounded by time, counted for the present jiffy. */
struct sg_pace {
	__u64 jiffy;
	__u64 count;
};

enum sg_paced {
	SG_PACE_OPENINGS, /* connections that open */
	SG_PACE_MESSAGES, /* "too big" messages */
	SG_PACES,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SG_PACES);
	__type(key, __u32);
	__type(value, struct sg_pace);
} pace SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sg_timeouts);
} timeouts SEC(".maps");

/* By the index of a VLAN's device; asked when a way is looked up, not for each packet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct sg_link);
} links SEC(".maps");

/* Asked for VIPs with SG_VIP_LIMITED only. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sg_source);
	__type(value, __u32);
} sources SEC(".maps");

/* By CPU, so that no two CPUs write one cache line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct sg_flow_table);
} flows SEC(".maps");

/* By the VIP's id; 0 is for VIPs that are going. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct sg_drops);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sg_capture);
} capture SEC(".maps");

/* Some 850 frames; a power of two, and whole pages also where these have 64 KiB. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} captured SEC(".maps");

const volatile struct sg_limits limits SEC(".rodata.limits") = {
	.vip_mask = 4095,
	.flow_set_mask = 65535,
	.mtu = 1500,
	.way_jiffies = 25,
	.messages = 4,
	.echo = 1,
	.openings = 500,
};

static __always_inline void count_drop(__u32 vip, __u32 reason)
{
	struct sg_drops *count = bpf_map_lookup_elem(&drops, &vip);

	if (count)
		count->packets[reason] += 1;
}

static __always_inline int drop(__u32 vip, __u32 reason)
{
	count_drop(vip, reason);
	return XDP_DROP;
}

#endif
