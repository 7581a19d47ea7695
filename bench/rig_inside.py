"""What the machines of :mod:`bench.rig` run: set this machine up as a worker, or as an edge node that forwards in one of four ways; then wait.

Arguments: `worker ADDRESS VIPS NUMBER:ADDRESS:EDGE...` or `WAY ADDRESS VIP WORKER WORKER_BEHIND_US`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

from lab import throwaway
from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.model import Destination, EdgeState, Protocol, VirtualKey, VirtualService
from lbnode.packet_tables import EdgeFilter
from lbnode.translate.sysctls import EDGE_SYSCTLS

PORT = 80
SMALL_BYTES, LARGE_BYTES = 100, 100_000
_POOL, _CLIENTS, _RACK_BITS, _GATEWAY = "203.0.113.0/24", "198.18.8.0/24", 24, "198.18.0.1"
_SERVER = """\
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 80; root /tmp/www; }
}
"""
_PROXY = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
stream {{ server {{ listen {vip}:80 backlog=4096; proxy_pass {worker}:80; }} }}
"""


def sh(command: str) -> None:
    """Run it; a failure ends this program with the command's name."""
    subprocess.run(shlex.split(command), check=True)


def join_the_rack(address: str) -> None:
    """Address and default route."""
    sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.send_redirects=0")
    sh("sysctl -qw net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.all.accept_redirects=0")
    sh(f"ip address add {address}/{_RACK_BITS} dev vec0")
    sh("ip link set vec0 up")
    sh(f"ip route add default via {_GATEWAY}")


def worker(address: str, vips: str, *answering: str) -> None:
    """A server behind every way: takes the VIPs' packets out of tunnels, and answers what was translated through the edge node that did."""
    join_the_rack(address)
    sh("ip link set tunl0 up")
    for vip in vips.split(","):
        sh(f"ip address add {vip}/32 dev lo")
    for number, own, edge in (entry.split(":") for entry in answering):
        sh(f"ip address add {own}/32 dev vec0")
        sh(f"ip route add {_CLIENTS} via {edge} table {100 + int(number)}")
        sh(f"ip rule add from {own} to {_CLIENTS} lookup {100 + int(number)}")
    pages = Path("/tmp/www")  # noqa: S108 - of the machine, which is ours alone
    pages.mkdir()
    (pages / "small").write_bytes(b"x" * SMALL_BYTES)
    (pages / "large").write_bytes(b"x" * LARGE_BYTES)
    serve(_SERVER)


def serve(configuration: str) -> None:
    """Start nginx with it."""
    file = Path("/tmp/nginx.conf")  # noqa: S108 - of the machine, which is ours alone
    file.write_text(configuration)
    sh(f"nginx -e stderr -c {file}")


def tunnel(vip: str, worker_address: str, behind_us: str) -> None:
    """samegate's own data plane: IPVS by tunnel, its filter, its sysctls. The worker answers the client itself."""
    key = VirtualKey(ip_address(vip), Protocol.TCP, PORT)
    table = EdgeFilter((ip_network(_POOL),), frozenset({key}))
    plane = KernelEdge([ip_network(_POOL)], sysctls=EDGE_SYSCTLS)
    wanted = EdgeState(
        sysctls=EDGE_SYSCTLS,
        timeouts=plane.read().timeouts,
        filter_digest=table.digest,
        vips=frozenset({key.address}),
        services=(VirtualService(key, (Destination(ip_address(worker_address)),)),),
    )
    plane.apply(diff_edge(wanted, table, plane.read()))
    left = diff_edge(wanted, table, plane.read())
    if left:
        raise SystemExit(f"the kernel does not have what was wanted: {left}")
    plane.close()


def dnat(vip: str, worker_address: str, behind_us: str) -> None:
    """One iptables rule; both directions pass. Connection tracking gets room: by its own choice a machine so small would drop what is new."""
    sh("sysctl -qw net.ipv4.ip_forward=1")
    sh(
        f"iptables-legacy -t nat -A PREROUTING -d {vip} -p tcp --dport {PORT} -j DNAT --to-destination {behind_us}:{PORT}"
    )
    sh("sysctl -qw net.netfilter.nf_conntrack_buckets=65536 net.netfilter.nf_conntrack_max=262144")


def ipvs_nat(vip: str, worker_address: str, behind_us: str) -> None:
    """IPVS with the same scheduler, by masquerading; both directions pass."""
    sh("sysctl -qw net.ipv4.ip_forward=1")
    sh(f"ip address add {vip}/32 dev lo")
    sh(f"ipvsadm -A -t {vip}:{PORT} -s mh -b mh-fallback,mh-port")
    sh(f"ipvsadm -a -t {vip}:{PORT} -r {behind_us}:{PORT} -m")


def proxy(vip: str, worker_address: str, behind_us: str) -> None:
    """nginx as a stream proxy, one worker process as the machine has one processor."""
    sh(f"ip address add {vip}/32 dev lo")
    serve(_PROXY.format(vip=vip, worker=worker_address))


WAYS: dict[str, Callable[[str, str, str], None]] = {
    "tunnel": tunnel,
    "dnat": dnat,
    "ipvs-nat": ipvs_nat,
    "proxy": proxy,
}


def main(role: str, *arguments: str) -> None:
    """Set up, say so, and stay."""
    if role == "worker":
        worker(*arguments)
    else:
        address, vip, worker_address, behind_us = arguments
        join_the_rack(address)
        WAYS[role](vip, worker_address, behind_us)
    (throwaway.EXCHANGE / "ready").touch()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
