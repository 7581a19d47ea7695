"""How long something that was broken on a machine stays so, timed on the machine itself."""

from __future__ import annotations

from lab.machines import Machine

LIMIT_SECONDS = 10.0


def timed_repair(machine: Machine, breaking: str, whole: str, limit_seconds: float = LIMIT_SECONDS) -> float | None:
    """Seconds from the shell command `breaking` until the shell condition `whole` holds again.

    None if it did not within `limit_seconds`. An agent that is just at it may mend within milliseconds, before anybody sees: then it is
    broken once more. Raises CommandError if it never showed: nothing was broken.
    """
    script = f"""
now() {{ read -r up rest < /proc/uptime; echo $up; }}
tries=0
while :; do
  began=$(now)
  {breaking}
  {whole} || break
  tries=$((tries + 1))
  [ $tries -ge 5 ] && {{ echo "nothing was broken" >&2; exit 9; }}
  sleep 0.3
done
rounds=0
until {whole}; do
  sleep 0.05; rounds=$((rounds + 1))
  [ $rounds -gt {int(limit_seconds / 0.05)} ] && exit 0
done
echo $began $(now)
"""
    shown = machine.run(script, timeout_seconds=limit_seconds * 10).stdout.split()
    return round(float(shown[1]) - float(shown[0]), 2) if len(shown) == 2 else None
