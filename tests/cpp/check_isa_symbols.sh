#!/bin/sh
# Checks that each kernel table in a static library exports one symbol and nothing else.
# A weak or second global symbol in an object compiled for AVX-512 could be picked by the linker for the whole program,
# which then dies on a CPU without it. Usage: check_isa_symbols.sh libgemma4_kernels.a [nm]
set -eu
library=$1
nm=${2:-nm}
status=0
checked=0
for object in $(ar t "$library"); do
  isa=${object%%.*}
  case $isa in scalar | avx2 | avx512 | avx512vnni | neon | attention_avx2 | attention_avx512 | \
    attention_avx512vnni | attention_neon | full_attention_avx2 | full_attention_avx512 | full_attention_avx512vnni | \
    full_attention_avx512bf16 | full_attention_neon | attention_amx | full_attention_amx | tiles_amx) ;; *) continue ;; esac
  checked=$((checked + 1))
  # Defined symbols with an upper-case (global), v, w or u (weak, unique) type; those of the sanitizers do not count.
  exported=$("$nm" --defined-only -p "$library" 2>/dev/null |
    awk -v object="$object:" '
      /:$/ { inside = ($0 == object) }
      inside && NF == 3 && $2 ~ /^[A-Zvwu]$/ && $3 !~ /^(__odr_|__asan_|__ubsan_|DW\.ref\.)/ { print $2 ":" $3 }')
  if [ "$(printf '%s\n' "$exported" | wc -l)" -ne 1 ] || ! printf '%s' "$exported" | grep -q "^T:.*${isa}_kernels"; then
    echo "$object must export only T ${isa}_kernels, but exports:" >&2
    printf '%s\n' "$exported" >&2
    status=1
  fi
done
if [ "$checked" -eq 0 ]; then
  echo "no kernel table in $library" >&2
  exit 1
fi
exit $status
