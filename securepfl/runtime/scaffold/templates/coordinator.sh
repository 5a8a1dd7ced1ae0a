#!/bin/sh
# The coordinator's machine: it carries sealed messages, and holds no patient and no key that opens a sum.
#
#   ./coordinator.sh check           is this machine ready?
#   ./coordinator.sh create          1. make its keys; read the fingerprint to the steward by phone
#   ./coordinator.sh enrol           2. after the steward; again until it says "complete"
#   ./coordinator.sh certificate     3. before the hospitals, and once more after them: it approves theirs
#   ./coordinator.sh serve           4. until the last round is over; stopped or killed, the same command goes on
#   ./coordinator.sh status          who answered, who is waited for
#
# Words behind the step are options of the command: ./coordinator.sh serve --deadline 600
set -eu
cd "$(dirname "$0")"
. ./settings.sh
step=${1:-}
[ $# -gt 0 ] && shift

folder=$PRIVATE/coordinator
host=${HUB#https://}
port=${host##*:}
host=${host%:*}

case $step in
    check)
        if [ -d "$folder/keys" ]; then set -- --folder "$folder" "$@"; fi
        securepfl doctor federation.toml "$@" ;;
    create) securepfl keys create coordinator --coordinator --folder "$folder" --exchange "$EXCHANGE" "$@" ;;
    enrol) securepfl keys enrol federation.toml --folder "$folder" --exchange "$EXCHANGE" --steward "$STEWARD" "$@" ;;
    certificate) securepfl keys certificate --folder "$folder" --exchange "$EXCHANGE" --host "$host" "$@" ;;
    serve) exec securepfl serve federation.toml --folder "$folder" --port "$port" "$@" ;;
    status) securepfl status "$folder" "$@" ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0"; exit 2 ;;
esac
