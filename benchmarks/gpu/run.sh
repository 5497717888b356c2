#!/bin/bash
# All figures of a machine with a GPU in under ten minutes: benchmarks/gpu/run.sh FOLDER [--device cpu]
# Each step has its own limit, all together have LIMIT_S seconds, and results are on the disk as they come: a run that is cut
# off keeps what it has. --device cpu tries out the steps, with small networks, where there is no GPU. PYTHON names another
# environment's.
set -u
folder=${1:?usage: benchmarks/gpu/run.sh FOLDER [--device cpu]}
device=cuda
[ "${2:-}" = --device ] && device=${3:?cuda or cpu}
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"
: > "$folder/steps.jsonl"

failed=0
end_s=$((SECONDS + ${LIMIT_S:-570}))
step() {  # step NAME LIMIT_S COMMAND...
  local name=$1 limit=$2 left=$((end_s - SECONDS)) began=$SECONDS code=124
  shift 2
  [ "$limit" -le $left ] || limit=$left
  echo "$name ..."
  if [ "$limit" -gt 0 ]; then  # to timeout, 0 means none
    timeout --kill-after=5 "$limit" "$@" > "$folder/$name.log" 2>&1
    code=$?
  fi
  echo "{\"step\": \"$name\", \"exit_code\": $code, \"seconds\": $((SECONDS - began)), \"limit_s\": $limit}" >> "$folder/steps.jsonl"
  [ $code -eq 0 ] || { failed=1; echo "$name: exit code $code, see $folder/$name.log"; }
}

tests=(-n 4 -m gpu tests/inference_engines)  # only these, as collecting all tests takes a minute
[ $device = cpu ] && tests=(tests/inference_engines/test_shared_sessions.py -k masks)

step doctor 60 "$python" -m lipsync_cli doctor
step engines 220 "$python" -m benchmarks.gpu.engines --device $device "$folder/engines.jsonl"
step tests 120 "$python" -m pytest -v -p no:cacheprovider --junitxml "$folder/tests.xml" "${tests[@]}"
step service 90 "$python" -m benchmarks.gpu.service --device $device "$folder/service.jsonl"
step stream 100 "$python" -m benchmarks.gpu.stream --device $device "$folder/stream.jsonl"
exit $failed
