#!/bin/sh
# PID 1 of the BIRD container. The agent writes the configuration; until then there is nothing to run.
# BIRD is started again here and not by the kubelet, whose back-off grows to five minutes: without BIRD the routes are gone.
set -u
run=${1:-/run/samegate}
bird=
stop() {
    [ -n "$bird" ] && kill -TERM "$bird" && wait "$bird"
    exit 0
}
trap stop TERM INT
while :; do
    while [ ! -s "$run/bird.conf" ]; do
        sleep 0.2 &
        wait $!
    done
    # -R: only with it does BIRD claim, after its own death, that forwarding went on; without gracefulRestart it changes nothing.
    bird -R -f -c "$run/bird.conf" -s "$run/bird.ctl" -P "$run/bird.pid" &
    bird=$!
    wait "$bird"
    echo "bird ended with status $?, starts again" >&2
    bird=
    sleep 0.5 &
    wait $!
done
