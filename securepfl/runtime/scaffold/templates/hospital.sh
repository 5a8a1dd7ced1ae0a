#!/bin/sh
# A hospital's machine: its patients, keys, ledger and model stay here. It calls the hub, and nobody calls it.
#
#   ./hospital.sh NAME check         is this machine ready?
#   ./hospital.sh NAME create        1. make its keys; read the fingerprint to the steward by phone
#   ./hospital.sh NAME enrol         2. the steward first, then all others; again until it says "complete"
#   ./hospital.sh NAME certificate   3. after the coordinator, and once more when it has approved
#   ./hospital.sh NAME join          4. until the last round is over; stopped or killed, the same command goes on
#   ./hospital.sh NAME status        where it stands, and what it spent
#
# NAME is one of: %%{names}
# Words behind the step are options of the command: ./hospital.sh NAME enrol --fingerprint NAME=XXXX-...
set -eu
cd "$(dirname "$0")"
. ./settings.sh
name=${1:-}
step=${2:-}
if [ $# -gt 1 ]; then shift 2; else step=; fi

folder=$PRIVATE/$name

case $step in
    check)
        if [ -d "$folder/keys" ]; then set -- --folder "$folder" --hub "$HUB" "$@"; fi
        securepfl doctor federation.toml "$@" ;;
    create) securepfl keys create "$name" --folder "$folder" --exchange "$EXCHANGE" "$@" ;;
    enrol) securepfl keys enrol federation.toml --folder "$folder" --exchange "$EXCHANGE" --steward "$STEWARD" "$@" ;;
    certificate) securepfl keys certificate --folder "$folder" --exchange "$EXCHANGE" "$@" ;;
    join) exec securepfl join federation.toml --data "$DATA" --folder "$folder" --hub "$HUB" "$@" ;;
    status) securepfl status "$folder" "$@" ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0"; exit 2 ;;
esac
