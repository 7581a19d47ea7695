/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the program and lbnode/dataplane/xdp_records.py share: every size and place here is also there, and a test compares both. */
#ifndef SAMEGATE_RECORD_H
#define SAMEGATE_RECORD_H

#include <linux/types.h>

/* Slots of a ring: a prime, so that every step visits all slots (Maglev, NSDI 2016, section 3.4). */
#define SG_RING_SLOTS 65537
/* Flows in one cache line: x86 and arm64 have lines of 64 bytes. */
#define SG_FLOWS_PER_SET 4
/* Jiffies in a tick, as a power of two: about a second. */
#define SG_TICK_SHIFT 8

/* sg_vip.flags */
#define SG_VIP_ADDRESS (1U << 0)  /* stands for the whole address: no ring */
#define SG_VIP_AFFINITY (1U << 1)  /* the client's port does not count */
#define SG_VIP_STATELESS (1U << 2) /* the flow table is not asked */
#define SG_VIP_LIMITED (1U << 3)   /* only clients of the map `sources` */
#define SG_VIP_CAPTURED (1U << 4)  /* somebody wants to see its packets: the map `capture` */

/* What is served: one address with one protocol and port, or the address as a whole (protocol and port 0). All in the byte order of the wire. */
struct sg_vip {
	__u64 address_high; /* 0 for IPv4 */
	__u64 address_low;
	__u32 service; /* port | protocol << 16 | IP version << 24; 0 is an empty place */
	__u32 id;      /* in flow keys and for counting drops; below 65536. Of a whole address: that of one of its services */
	__u64 seed;    /* starts the hash of flows: the same on every edge node */
	__u32 ring;
	__u32 flags;
	__u64 made_of; /* for user space: which destinations the ring was made of */
	__u64 unused;
};

/* Where packets of one VIP go: a worker's address, and our own in the same outer header. */
struct sg_destination {
	__u32 generation; /* a flow that names another one is forgotten; 0 is nobody */
	__u32 version;	  /* of the outer header: 4 or 6 */
	__u32 worker[4];
	__u32 edge[4];
	__u32 header_sum; /* of the outer IPv4 header but its length, for the checksum */
	/* The rest is for user space, which reads back from here what it put in. */
	__u32 vip;
	__u32 weight;
	__u32 drained;
	__u32 rank; /* among those of its VIP; the highest came last */
	__u32 retired; /* its generation before it became 0 */
};

/* The tag of a frame in a VLAN (IEEE 802.1Q), in the byte order of the wire; protocol 0 is none. */
struct sg_tag {
	__u16 protocol;
	__u16 control;
};

/* How frames leave by a device of a VLAN, which takes none itself: by the device under it, with a tag. */
struct sg_link {
	__u32 device;
	struct sg_tag tag;
};

/* Key of an LPM trie: a network whose clients may use a VIP. An IPv4 address is the first four bytes. */
struct sg_source {
	__u32 bits; /* 32 more than the network's, for the VIP in front of it */
	__u32 vip;
	__u8 address[16];
};

/* Idle times; only the ticks are the program's, the seconds are for user space to read back. */
struct sg_timeouts {
	__u32 tcp_seconds;
	__u32 tcp_fin_seconds;
	__u32 udp_seconds;
	__u32 udp_ticks; /* UDP flows without a packet for so long are forgotten */
};

struct sg_ring {
	__u32 destination[SG_RING_SLOTS];
};

/* One flow of one CPU's table. */
struct sg_flow {
	__u64 key;
	__u32 destination;
	__u16 generation; /* the low half of the destination's */
	__u16 stamp;	  /* UDP: ticks at its last packet; TCP: 1 after its second packet */
};

struct sg_flow_set {
	struct sg_flow flow[SG_FLOWS_PER_SET];
};

/* What one CPU counted for one destination, and the way to it that it looked up last. */
struct sg_traffic {
	__u64 packets;
	__u64 bytes; /* of the packets as they came, from the IP header on */
	__u64 new_flows;
	__u64 table_hits;
	__u64 looked_up; /* jiffies */
	__u32 device;
	__u8 to[6];
	__u8 from[6];
	struct sg_tag tag;
	__u32 unused;
};

/* Why a packet for a VIP went nowhere. */
enum sg_drop {
	SG_DROP_FRAGMENT,
	SG_DROP_OPTIONS,
	SG_DROP_NO_DESTINATION,
	SG_DROP_TOO_BIG,
	SG_DROP_NO_ROUTE,
	SG_DROP_NO_ROOM,
	SG_DROP_SOURCE,
	SG_DROPS,
};

/* What one CPU dropped of one VIP, by reason. */
struct sg_drops {
	__u64 packets[SG_DROPS];
};

/* Bytes of a frame that are copied: headers, tags, an ICMP error with what it quotes, and the beginning of the rest. */
#define SG_CAPTURE_BYTES 256

/* What is to be seen of the VIPs with SG_VIP_CAPTURED. Bounded here, for who asked for it may be gone. */
struct sg_capture {
	__u64 until; /* nanoseconds of CLOCK_MONOTONIC */
	__u64 most;  /* packets */
	__u64 taken; /* of them so far; each CPU may take one too many */
	__u64 lost;  /* frames that the ring had no room for */
	__u64 one_in; /* one packet of so many is taken, by chance; 0 and 1 are all */
};

/* Verdict of a frame as it came, before the program did anything; all others are those of linux/bpf.h. */
#define SG_CAME 0xffffffffU

/* A frame in the ring `captured`. */
struct sg_captured {
	__u64 nanoseconds; /* of CLOCK_MONOTONIC */
	__u32 verdict;
	__u32 device; /* where it came in */
	__u32 bytes;  /* of the whole frame, of which the first SG_CAPTURE_BYTES follow */
	__u32 cpu; /* each packet's two frames come from one, with none of another packet's from there in between */
	__u8 frame[SG_CAPTURE_BYTES];
};

/* Fixed when the program is loaded. */
struct sg_limits {
	__u32 vip_mask;	     /* places of the VIP table, less one */
	__u32 flow_set_mask; /* sets of one CPU's flow table, less one */
	__u32 mtu;	     /* bytes that an outer packet may have */
	__u32 way_jiffies;   /* how long the way to a destination is not looked up anew */
	__u32 messages;	     /* "too big" messages that one CPU sends in one jiffy at most */
	__u32 echo;	     /* whether a VIP answers echo requests */
	__u32 openings;	     /* connections opening on one CPU in one jiffy, from which on known ones are not looked for */
};

#endif
