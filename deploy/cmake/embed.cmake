# Writes OUTPUT, a C++ source that defines attune::FUNCTION, which returns the bytes of INPUT. Run by attune_embed:
#   cmake -D INPUT=... -D OUTPUT=... -D FUNCTION=... -D HEADER=... -P embed.cmake
# HEADER declares the function. Bytes, not a literal: a literal's length is limited, and what it may hold.
file(READ ${INPUT} bytes HEX)
if(bytes STREQUAL "")
  message(FATAL_ERROR "${INPUT} is empty")
endif()
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REPEAT "0x..," 24 line)
string(REGEX REPLACE "(${line})" "\\1\n" bytes "${bytes}")
get_filename_component(name ${INPUT} NAME)
file(WRITE ${OUTPUT} "// ${name}, written by deploy/cmake/embed.cmake.
#include \"${HEADER}\"

namespace attune {

static constexpr unsigned char kBytes[] = {
${bytes}
};

absl::string_view ${FUNCTION}() { return {reinterpret_cast<const char*>(kBytes), sizeof kBytes}; }

}  // namespace attune
")
