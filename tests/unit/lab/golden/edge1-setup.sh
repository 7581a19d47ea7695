set -eu
modprobe -a ip_vs ip_vs_mh ip_vs_rr ipip ip6_tunnel nf_conntrack nf_conntrack_netlink iptable_raw iptable_mangle iptable_nat iptable_filter ip6table_raw ip6table_mangle ip6table_nat ip6table_filter veth bridge
for d in all default vec0; do sysctl -qw net.ipv4.conf.$d.send_redirects=0 net.ipv4.conf.$d.accept_redirects=0; done
ip link set lo up
sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.fib_multipath_hash_policy=1 net.ipv6.conf.vec0.accept_ra=0 net.ipv6.conf.vec0.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_redirects=0 net.ipv6.conf.default.accept_redirects=0 net.ipv6.conf.vec0.accept_redirects=0
ip link set vec0 mtu 1500 up
ip address replace 198.18.0.11/24 dev vec0
ip route replace default nexthop via 198.18.0.2 nexthop via 198.18.0.3
ip route replace 198.18.130.0/24 via 198.18.0.12
ip route replace 198.18.131.0/24 via 198.18.0.21
ip route replace 198.18.132.0/24 via 198.18.0.22
ip -6 address replace 2001:db8:0:1::11/64 dev vec0
ip -6 route replace default nexthop via 2001:db8:0:1::2 nexthop via 2001:db8:0:1::3
ip -6 route replace 2001:db8:0:130::/64 via 2001:db8:0:1::12
ip -6 route replace 2001:db8:0:131::/64 via 2001:db8:0:1::21
ip -6 route replace 2001:db8:0:132::/64 via 2001:db8:0:1::22
mkdir -p /var/lib/cni
mountpoint -q /var/lib/cni || mount -t tmpfs -o size=16m,mode=755 cni /var/lib/cni
sysctl -qw vm.dirty_writeback_centisecs=100 vm.dirty_expire_centisecs=200
mkdir -p /etc/cni/net.d
cp /lab/node/pods.conflist /etc/cni/net.d/10-pods.conflist
printf '127.0.0.1 localhost\n%s\n' '198.18.0.11 edge1
198.18.0.12 edge2
198.18.0.21 worker1
198.18.0.22 worker2' > /etc/hosts
