set -eu
modprobe -a ip_vs ip_vs_mh ip_vs_rr ipip nf_conntrack nf_conntrack_netlink iptable_raw iptable_mangle iptable_nat iptable_filter veth bridge
for d in all default vec0; do sysctl -qw net.ipv4.conf.$d.send_redirects=0 net.ipv4.conf.$d.accept_redirects=0; done
ip link set lo up
ip link set vec0 mtu 1500 up
ip address replace 198.18.0.11/24 dev vec0
ip route replace default nexthop via 198.18.0.2 nexthop via 198.18.0.3
ip route replace 198.18.130.0/24 via 198.18.0.12
ip route replace 198.18.131.0/24 via 198.18.0.21
ip route replace 198.18.132.0/24 via 198.18.0.22
mkdir -p /var/lib/cni
mountpoint -q /var/lib/cni || mount -t tmpfs -o size=16m,mode=755 cni /var/lib/cni
sysctl -qw vm.dirty_writeback_centisecs=100 vm.dirty_expire_centisecs=200
mkdir -p /etc/cni/net.d
cp /lab/node/pods.conflist /etc/cni/net.d/10-pods.conflist
printf '127.0.0.1 localhost\n%s\n' '198.18.0.11 edge1
198.18.0.12 edge2
198.18.0.21 worker1
198.18.0.22 worker2' > /etc/hosts
