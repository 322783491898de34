# attune_module(NAME DIR [TORCH] [DEPS ...]): a static library from every .cc in
# DIR (not its subfolders). A new file needs no change here.
#   EXCLUDE REGEX  leaves files out.
#   TORCH  the module may include torch headers; they come precompiled.
function(attune_module name)
  cmake_parse_arguments(ARG "TORCH" "DIR;EXCLUDE" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${ARG_DIR}/*.cc)
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${ARG_EXCLUDE}")
  endif()
  if(NOT sources)
    return()
  endif()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC attune_options ${ARG_DEPS})
  if(ARG_TORCH)
    # PRIVATE: the torch package also holds old protobuf headers, which gRPC files must not see.
    target_link_libraries(${name} PRIVATE attune_torch)
    if(TARGET attune_torch_pch)
      target_precompile_headers(${name} REUSE_FROM attune_torch_pch)
    endif()
  endif()
endfunction()

# attune_embed(TARGET FILE FUNCTION HEADER): puts the bytes of FILE into TARGET, so that a program needs no file
# beside it. HEADER declares `absl::string_view FUNCTION();` in the namespace attune.
function(attune_embed target file function header)
  get_filename_component(input ${file} ABSOLUTE)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${file}.cc)
  set(script ${CMAKE_SOURCE_DIR}/deploy/cmake/embed.cmake)
  add_custom_command(OUTPUT ${output} DEPENDS ${input} ${script} VERBATIM COMMENT "Embedding ${file}"
    COMMAND ${CMAKE_COMMAND} -D INPUT=${input} -D OUTPUT=${output} -D FUNCTION=${function} -D HEADER=${header} -P ${script})
  target_sources(${target} PRIVATE ${output})
endfunction()

# attune_test(FILE [TORCH] [DEPS ...]): one GoogleTest executable per x_test.cc,
# named after its path: tests/jobs/policy_test.cc is the test jobs_policy_test.
function(attune_test file)
  cmake_parse_arguments(ARG "TORCH" "" "DEPS" ${ARGN})
  file(RELATIVE_PATH rel ${CMAKE_SOURCE_DIR}/tests ${file})
  string(REGEX REPLACE "\\.cc$" "" name ${rel})
  string(REPLACE "/" "_" name ${name})
  add_executable(${name} ${file})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} attune_options GTest::gmock GTest::gtest_main)
  if(ARG_TORCH AND TARGET attune_torch_pch)
    target_link_libraries(${name} PRIVATE attune_torch)
    target_precompile_headers(${name} REUSE_FROM attune_torch_pch)
    # As the precompiled header was compiled: with -fPIE the compiler would not take it.
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${name} PRIVATE -fPIC)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
  if(ATTUNE_SANITIZE MATCHES thread)
    set_tests_properties(${name} PROPERTIES
      ENVIRONMENT "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=${CMAKE_SOURCE_DIR}/tests/testing/tsan.supp")
  endif()
endfunction()
