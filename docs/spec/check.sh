#!/usr/bin/env bash
# Checks the election with spin: all that must hold holds, and each thing that is broken on purpose is found.
#
#   check.sh              all of it; a minute and a half of processor time, on two processors, less than 2 GB
#   check.sh deep         larger models instead: some minutes, up to 8 GB
#   check.sh show NAME    the shortest run that goes wrong when NAME is broken
#
# It installs nothing, and writes only into a temporary directory.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
model=$here/vip-election.pml

# NAME, then what is expected, then the options.
#   holds    the whole state space was searched, and nothing is wrong
#   gates    two gates are open at once        epochs   an epoch goes back        dark   nobody has the address for too long
gates='assertion violated ((k==me)||(gate\[k\]==0))'
epochs='assertion violated (\(told\|given\)_epoch\[me\]<=opened)'
dark='assertion violated (dark<='

holds=(
  "two-nodes         -DN=2 -DSLOTS=2 -DF=2 -DRELEASES -DHAND_OVERS -DWIPES"
  "three-nodes       -DN=3 -DSLOTS=1 -DF=1 -DHAND_OVERS"
  "late-writes       -DN=3 -DSLOTS=2 -DF=1 -DRELEASES"
  "epochs            -DN=2 -DSLOTS=1 -DF=2 -DRELEASES -DHAND_OVERS -DEPOCHS"
  "wipes             -DN=3 -DSLOTS=1 -DF=2 -DRELEASES -DWIPES"
  "lives             -DN=2 -DSLOTS=2 -DF=2 -DRELEASES -DLIVENESS -DDARKEST=5 -DSTEPS=40"
  "lives-hand-overs  -DN=2 -DSLOTS=1 -DF=2 -DSLOW=0 -DFAST=0 -DHAND_OVERS -DLIVENESS -DDARKEST=2 -DSTEPS=40"
  "lives-three       -DN=3 -DSLOTS=1 -DF=2 -DSLOW=0 -DFAST=0 -DLIVENESS -DDARKEST=2 -DSTEPS=40"
)
deep=(
  "deep-three        -DN=3 -DSLOTS=1 -DF=1 -DRELEASES -DHAND_OVERS -DEPOCHS"
  "deep-late-writes  -DN=3 -DSLOTS=2 -DF=2 -DRELEASES"
  "deep-lives        -DN=2 -DSLOTS=1 -DF=2 -DHAND_OVERS -DLIVENESS -DDARKEST=5 -DSTEPS=40"
)
one="-DN=2 -DSLOTS=1 -DF=2"
broken=(
  "O_LESS_THAN_F            gates   $one -DO=1"
  "O_ONE_TICK_TOO_SHORT     gates   $one -DO=3"
  "RIGHT_FROM_ANSWER        gates   $one -DRIGHT_FROM_ANSWER"
  "NO_WAIT_AT_START         gates   $one -DNO_WAIT_AT_START"
  "NO_KERNEL                gates   $one -DNO_KERNEL"
  "STOPPED_TWICE            gates   $one -DSTOPPED_TWICE"
  "CLAIMS_WITHOUT_GUARD     gates   $one -DCLAIMS_WITHOUT_GUARD"
  "WRITES_ALIKE             gates   $one -DWRITES_ALIKE"
  "FREE_IS_FREE             gates   $one -DRELEASES -DWIPES -DFREE_IS_FREE"
  "GATE_SHUT_LATER          gates   $one -DHAND_OVERS -DGATE_SHUT_LATER"
  "CAN_TAKE_BACK            gates   $one -DRELEASES -DCAN_TAKE_BACK"
  "LATE_ANSWERS_COUNT       gates   $one -DHAND_OVERS -DLATE_ANSWERS_COUNT"
  "RIGHT_FROM_SEEING        gates   $one -DHAND_OVERS -DRIGHT_FROM_SEEING"
  "RIGHT_FROM_LAST_ANSWER   gates   $one -DHAND_OVERS -DRIGHT_FROM_LAST_ANSWER"
  "OFFERS_WITHOUT_NUMBER    gates   $one -DHAND_OVERS -DOFFERS_WITHOUT_NUMBER"
  "GIFTS_TO_A_NODE          gates   $one -DHAND_OVERS -DGIFTS_TO_A_NODE"
  "EPOCH_OF_LATE_ANSWERS    epochs  $one -DRELEASES -DEPOCHS -DGATES_UNCHECKED -DLATE_ANSWERS_COUNT"
  "HOLDERS_NODE_NEVER_CLAIMS dark   $one -DSLOW=0 -DFAST=0 -DLIVENESS -DDARKEST=2 -DSTEPS=40 -DHOLDERS_NODE_NEVER_CLAIMS"
  "ONE_TICK_LESS_DARK       dark    $one -DSLOW=0 -DFAST=0 -DLIVENESS -DDARKEST=1 -DSTEPS=40"
)

# die WHAT MEND
die() { printf 'error: %s\n  do:  %s\n' "$1" "$2" >&2; exit 1; }

need() {
  command -v spin >/dev/null || die "spin is missing" "install the package spin (Debian and Ubuntu), or Spin 6.5 from its authors"
  cc=$(command -v gcc || command -v cc) || die "a C compiler is missing" "install the package gcc, and libc6-dev with it"
}

# verify NAME OPTIONS: runs the verifier; what it says goes into NAME/out. BFS gives the shortest run that goes wrong.
verify() {
  local name=$1
  shift
  mkdir -p "$work/$name"
  cd "$work/$name"
  cp "$model" .
  spin "$@" -a vip-election.pml >generated 2>&1 || { cat generated; return 1; }
  [ -f pan.c ] || { cat generated; return 1; }
  "$cc" -w -O1 -DSAFETY -DBFS -DCOLLAPSE -DNOFAIR "-DMEMLIM=$memory" -o pan pan.c
  # -n: without a list of what was never reached. A model that does not fit fails below.
  (ulimit -t "$seconds" && exec ./pan -n -w20) >out 2>&1 || true
}

# judge NAME EXPECTED: one line, and whether it is as expected.
judge() {
  local out=$work/$1/out states depth said=holds
  if ! [ -f "$out" ]; then
    printf 'FAILED  %-26s no verifier came of it\n' "$1"
    return 1
  fi
  states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' "$out")
  depth=$(sed -n 's/.*depth reached \([0-9]*\),.*/\1/p' "$out")
  if grep -q "$gates" "$out"; then
    said=gates
  elif grep -q "$epochs" "$out"; then
    said=epochs
  elif grep -q "$dark" "$out"; then
    said=dark
  elif ! grep -q 'errors: 0' "$out" || grep -q -i -e 'not completed' -e 'reached -DMEMLIM' -e 'too small' "$out"; then
    said="not finished: $(tail -n 1 "$out")"
  fi
  if [ "$said" = "$2" ]; then
    printf 'ok      %-26s %-7s %9s states, depth %s\n' "$1" "$said" "$states" "$depth"
  else
    printf 'FAILED  %-26s expected %s, got %s\n' "$1" "$2" "$said"
    return 1
  fi
}

run() {
  local name=$1 expected=$2
  shift 2
  verify "$name" "$@" || true
  judge "$name" "$expected"
}

need
work=$(mktemp -d "${TMPDIR:-/tmp}/vip-election.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Of each verifier: MB, seconds of processor time; and how many at once.
memory=900
seconds=100
jobs=2
failed=0

# in_parallel EXPECTED_OR_EMPTY LINE...
in_parallel() {
  local expected=$1 line words running=0
  shift
  for line in "$@"; do
    read -ra words <<<"$line"
    if [ "$running" -ge "$jobs" ]; then
      wait -n || failed=1
      running=$((running - 1))
    fi
    if [ -n "$expected" ]; then
      run "${words[0]}" "$expected" "${words[@]:1}" &
    else
      run "${words[@]}" &
    fi
    running=$((running + 1))
  done
  while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
  done
}

case ${1:-} in
  '')
    in_parallel holds "${holds[@]}"
    in_parallel '' "${broken[@]}"
    ;;
  deep)
    memory=8000 seconds=1800 jobs=1
    in_parallel holds "${deep[@]}"
    ;;
  show)
    for line in "${broken[@]}"; do
      read -ra words <<<"$line"
      if [ "${words[0]}" = "${2:-}" ]; then
        verify "${words[0]}" "${words[@]:2}"
        cd "$work/${words[0]}"
        # Until the values of all variables.
        spin "${words[@]:2}" -t vip-election.pml | sed '/^spin: trail ends/,$d'
        exit 0
      fi
    done
    printf 'error: %s is not broken here; there are:\n' "${2:-(no name)}" >&2
    printf '  %s\n' "${broken[@]%% *}" >&2
    exit 64
    ;;
  *)
    echo "usage: check.sh [deep | show NAME]" >&2
    exit 64
    ;;
esac
[ "$failed" -eq 0 ] || { echo "not all is as it should be" >&2; exit 1; }
echo "all is as it should be"
