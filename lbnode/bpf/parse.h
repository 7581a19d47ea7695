/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A packet's headers. Each step checks the bounds of what it reads. */
#ifndef SAMEGATE_PARSE_H
#define SAMEGATE_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* linux/ip.h of user space does not have them. */
#define SG_IP_OFFSET_OR_MORE 0x3fff
#define SG_IP_DO_NOT_FRAGMENT 0x4000
#define SG_IP_OFFSET 0x1fff
#define SG_TCP_SYN 0x02
#define SG_TCP_ACK 0x10
/* Header of ICMP over either IP (RFC 792, RFC 4443); linux/icmp.h of user space brings all of its sockets along. */
struct sg_icmp {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 rest;
};
#define SG_ICMP_ECHO_REPLY 0
#define SG_ICMP_UNREACHABLE 3
#define SG_ICMP_UNREACHABLE_TOO_BIG 4 /* code */
#define SG_ICMP_ECHO 8
#define SG_ICMP_TIME_EXCEEDED 11
#define SG_ICMP_PARAMETER_PROBLEM 12
#define SG_ICMP6_TOO_BIG 2
#define SG_ICMP6_PARAMETER_PROBLEM 4
#define SG_ICMP6_ECHO 128
#define SG_ICMP6_ECHO_REPLY 129

/* Of IEEE 802.1Q: what follows the addresses of a tagged frame. */
struct sg_vlan {
	__u16 control;
	__u16 protocol;
};
#define SG_VLANS 2
#define SG_LINK_BYTES_MOST (sizeof(struct ethhdr) + SG_VLANS * sizeof(struct sg_vlan))

#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Who talks to whom, in the byte order of the wire. */
struct sg_packet {
	__u64 client_high;
	__u64 client_low;
	__u64 vip_high;
	__u64 vip_low;
	__u32 service; /* as in struct sg_vip */
	__u16 client_port;
	__u8 protocol;
	__u8 opens; /* TCP: SYN without ACK */
	__u32 version;
	__u32 bytes;  /* from the IP header on, without padding */
	__u32 link_bytes; /* in front of the IP header */
	__u8 traffic_class;
	__u8 quoted; /* an ICMP error about such a packet, not the packet itself */
};

static __always_inline __u32 service_of(__u32 port, __u32 protocol, __u32 version)
{
	return port | protocol << 16 | version << 24;
}

/* Ports and, of TCP, whether it opens. 0, or -1 where the packet ends too early. */
static __always_inline int parse_ports(struct sg_packet *packet, void *at, void *end)
{
	if (packet->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = at;

		if (at + sizeof(*tcp) > end)
			return -1;
		packet->client_port = tcp->source;
		packet->service = service_of(tcp->dest, IPPROTO_TCP, packet->version);
		packet->opens = (((__u8 *)tcp)[13] & (SG_TCP_SYN | SG_TCP_ACK)) == SG_TCP_SYN;
		return 0;
	}
	struct udphdr *udp = at;

	if (at + sizeof(*udp) > end)
		return -1;
	packet->client_port = udp->source;
	packet->service = service_of(udp->dest, packet->protocol, packet->version);
	packet->opens = 0;
	return 0;
}

#endif
