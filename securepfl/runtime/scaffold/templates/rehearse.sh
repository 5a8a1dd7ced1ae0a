#!/bin/sh
# The real thing on this machine alone: keys, certificates, a hub and each hospital as a process of its own, over HTTPS,
# with what lies in data/. Its noise is seeded, so it protects nobody and spends no budget. All it makes lies in rehearsal/.
set -eu
cd "$(dirname "$0")"
if [ -e rehearsal ]; then
    echo "rehearsal/ is there already: remove it to rehearse once more" >&2
    exit 2
fi
mkdir -m 700 rehearsal rehearsal/exchange rehearsal/heard rehearsal/logs
export HUB=${HUB:-https://localhost:8443}
export PRIVATE=rehearsal/private EXCHANGE=rehearsal/exchange OMP_NUM_THREADS=1
secret=rehearsal/passphrase
(umask 077 && head -c 24 /dev/urandom | base64 > $secret)
set -- %%{quoted}
steward=%%{steward}

coordinator() { step=$1; shift; ./coordinator.sh "$step" --passphrase-file $secret "$@"; }
hospital() { name=$1 step=$2; shift 2; ./hospital.sh "$name" "$step" --passphrase-file $secret "$@"; }
fingerprint() { tee -a rehearsal/logs/ceremony.log | sed -n 's/.*: \([A-Z2-7]\{4\}\(-[A-Z2-7]\{4\}\)\{7\}\)$/\1/p'; }

echo "1. keys: each party makes its own"
coordinator create | fingerprint > rehearsal/coordinator.heard
for name; do hospital "$name" create | fingerprint > "rehearsal/heard/$name"; done

echo "2. enrolment: the steward, $steward, compares all fingerprints, and all others the steward's"
heard=$(cat "rehearsal/heard/$steward")
(
    for name; do
        shift
        [ "$name" = "$steward" ] || set -- "$@" --fingerprint "$name=$(cat "rehearsal/heard/$name")"
    done
    hospital "$steward" enrol --fingerprint "coordinator=$(cat rehearsal/coordinator.heard)" "$@"
) >> rehearsal/logs/ceremony.log
for time in first second; do
    coordinator enrol --fingerprint "$steward=$heard" >> rehearsal/logs/ceremony.log
    for name; do
        [ "$name" = "$steward" ] || hospital "$name" enrol --fingerprint "$steward=$heard" >> rehearsal/logs/ceremony.log
    done
    hospital "$steward" enrol >> rehearsal/logs/ceremony.log
done

echo "3. certificates: asked for, approved, installed"
for time in first second; do
    coordinator certificate >> rehearsal/logs/ceremony.log
    for name; do hospital "$name" certificate >> rehearsal/logs/ceremony.log; done
done

echo "4. the rounds: the hub, and $# hospitals (their logs lie in rehearsal/logs)"
echo "   where a hospital stands:    PRIVATE=$PRIVATE ./hospital.sh NAME status"
echo "   after a kill it goes on by: HUB=$HUB PRIVATE=$PRIVATE ./hospital.sh NAME join \\"
echo "                               --seed 1 --device cpu --passphrase-file $secret"
joins() {
    ./hospital.sh "$1" join --seed 1 --device cpu --passphrase-file $secret 2> "rehearsal/logs/$1.log" &
    party=$!
    trap 'kill $party 2> /dev/null; exit' TERM
    wait $party || echo "   $1 stopped: $(tail -n 1 "rehearsal/logs/$1.log")" >&2
}
./coordinator.sh serve --passphrase-file $secret --host 127.0.0.1 2> rehearsal/logs/coordinator.log &
hub=$!
parties=$hub
trap 'kill $parties 2> /dev/null || true' EXIT INT TERM
for name; do
    joins "$name" &
    parties="$parties $!"
done
if wait $hub; then
    wait
    echo "all rounds are over; rehearsal/private/NAME/run has each hospital's model and result.json"
else
    tail -n 3 rehearsal/logs/*.log >&2
    exit 1
fi
