# Compiler, linker and sanitizer settings that every target shares.
add_library(attune_options INTERFACE)
target_include_directories(attune_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(attune_options INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare
                                                -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  target_compile_options(attune_options INTERFACE -Wthread-safety -Werror=thread-safety)
endif()

find_program(ATTUNE_CCACHE ccache)
if(ATTUNE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ATTUNE_CCACHE})
endif()
find_program(ATTUNE_MOLD mold)
if(ATTUNE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

if(ATTUNE_SANITIZE)
  add_compile_options(-fsanitize=${ATTUNE_SANITIZE} -fno-omit-frame-pointer -g -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${ATTUNE_SANITIZE})
endif()
if(ATTUNE_BUILD_FUZZERS)
  # Coverage of the code under test is what guides the fuzzer.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
