// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The edge node's data plane in XDP. */
#include "balance.h"

SEC("xdp")
int samegate(struct xdp_md *ctx)
{
	return balance(ctx);
}

/* The kernel lets only such programs ask its routes. */
char LICENSE[] SEC("license") = "GPL";
