# Abseil compiled with this build's flags. The thread sanitizer knows nothing of
# what an uninstrumented library locks, so with Debian's abseil every access
# guarded by an absl::Mutex would look like a race.
set(_abseil "${ATTUNE_CACHE}/abseil-20220623")
if(NOT EXISTS "${_abseil}/absl/synchronization/mutex.cc")
  message(FATAL_ERROR "No abseil sources in '${_abseil}': run deploy/install-dependencies --tests")
endif()
file(GLOB_RECURSE _sources ${_abseil}/absl/*.cc)
list(FILTER _sources EXCLUDE REGEX "(test|test_util|testing|benchmark|benchmarks|gaussian_distribution_gentables|exception_safety.*|test_common|print_hash_of|test_instance_tracker|scoped_set_env|test_matchers)\\.cc$")
list(FILTER _sources EXCLUDE REGEX "/(flags|testdata)/")
add_library(attune_abseil STATIC ${_sources})
target_include_directories(attune_abseil SYSTEM PUBLIC ${_abseil})
target_link_libraries(attune_abseil PUBLIC Threads::Threads)
target_compile_options(attune_abseil PRIVATE -w)
# This release is C++17: its constant-initialized locks do not compile as C++20 under the sanitizer.
set_target_properties(attune_abseil PROPERTIES CXX_STANDARD 17)
# The names of the package's targets that Attune links.
foreach(_target base status statusor strings str_format time synchronization flat_hash_map flat_hash_set btree
                random_random hash cord span any_invocable inlined_vector cleanup)
  add_library(absl::${_target} ALIAS attune_abseil)
endforeach()
