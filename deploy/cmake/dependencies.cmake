# Third-party packages as imported targets. libtorch never goes on
# CMAKE_PREFIX_PATH: it ships old protobuf headers that FindProtobuf would pick.
set(ATTUNE_CACHE "$ENV{ATTUNE_CACHE}" CACHE PATH "Where deploy/install-dependencies put things")
if(NOT ATTUNE_CACHE)
  if(DEFINED ENV{XDG_CACHE_HOME})
    set(ATTUNE_CACHE "$ENV{XDG_CACHE_HOME}/attune" CACHE PATH "" FORCE)
  else()
    set(ATTUNE_CACHE "$ENV{HOME}/.cache/attune" CACHE PATH "" FORCE)
  endif()
endif()
set(ATTUNE_TORCH_VERSION 2.11.0)
set(ATTUNE_SENTENCEPIECE_VERSION 0.2.0)

find_package(Threads REQUIRED)
if(ATTUNE_SANITIZE MATCHES thread)
  include(deploy/cmake/abseil_from_source.cmake)
else()
  find_package(absl REQUIRED)
endif()
find_package(PkgConfig REQUIRED)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(PROTOBUF_LITE REQUIRED IMPORTED_TARGET protobuf-lite)

set(_spm "${ATTUNE_CACHE}/sentencepiece-${ATTUNE_SENTENCEPIECE_VERSION}")
add_library(attune_sentencepiece STATIC IMPORTED)
set_target_properties(attune_sentencepiece PROPERTIES
  IMPORTED_LOCATION ${_spm}/lib/libsentencepiece.a
  INTERFACE_INCLUDE_DIRECTORIES ${_spm}/include)
target_link_libraries(attune_sentencepiece INTERFACE PkgConfig::PROTOBUF_LITE)

set(_xgrammar "${ATTUNE_CACHE}/xgrammar-0.2.8")
if(ATTUNE_SANITIZE MATCHES thread)
  set(_xgrammar "${_xgrammar}-tsan")
endif()
add_library(attune_xgrammar STATIC IMPORTED)
set_target_properties(attune_xgrammar PROPERTIES
  IMPORTED_LOCATION ${_xgrammar}/lib/libxgrammar.a
  INTERFACE_INCLUDE_DIRECTORIES ${_xgrammar}/include)
target_link_libraries(attune_xgrammar INTERFACE Threads::Threads)

# Debian's gRPC and the sanitizers do not go together, so a build without
# torch is also one without gRPC.
set(ATTUNE_WITH_RPC ${ATTUNE_WITH_TORCH})
if(ATTUNE_WITH_RPC)
  find_package(Protobuf MODULE REQUIRED)
  pkg_check_modules(GRPC REQUIRED IMPORTED_TARGET grpc++)
  find_library(ATTUNE_GRPC_REFLECTION grpc++_reflection REQUIRED)
  find_program(ATTUNE_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED)
endif()

if(ATTUNE_WITH_TORCH)
  if(NOT ATTUNE_TORCH_DIR)
    file(GLOB _torch "${ATTUNE_CACHE}/python-torch${ATTUNE_TORCH_VERSION}/lib/python3*/site-packages/torch")
    set(ATTUNE_TORCH_DIR "${_torch}" CACHE PATH "The torch package's folder")
  endif()
  if(NOT EXISTS "${ATTUNE_TORCH_DIR}/lib/libtorch_cpu.so")
    message(FATAL_ERROR "No torch ${ATTUNE_TORCH_VERSION} in '${ATTUNE_TORCH_DIR}': run deploy/install-dependencies")
  endif()
  add_library(attune_torch INTERFACE)
  target_include_directories(attune_torch SYSTEM INTERFACE
    ${ATTUNE_TORCH_DIR}/include ${ATTUNE_TORCH_DIR}/include/torch/csrc/api/include)
  # CUDA's own headers, which torch's stream and graph headers read; a package beside torch.
  file(GLOB _cuda_packages "${ATTUNE_TORCH_DIR}/../nvidia/cu13")
  target_include_directories(attune_torch SYSTEM INTERFACE ${_cuda_packages}/include)
  target_compile_definitions(attune_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  # at::parallel_for is a template over OpenMP: without this it silently runs on one
  # thread. The runtime is torch's own, so that there is one pool of threads.
  target_compile_options(attune_torch INTERFACE -fopenmp)
  # libtorch_cuda registers its kernels by being loaded, so it is linked though no symbol is used.
  target_link_libraries(attune_torch INTERFACE
    -Wl,--no-as-needed ${ATTUNE_TORCH_DIR}/lib/libtorch_cuda.so ${ATTUNE_TORCH_DIR}/lib/libtorch_cpu.so -Wl,--as-needed
    ${ATTUNE_TORCH_DIR}/lib/libgomp.so.1 ${ATTUNE_TORCH_DIR}/lib/libtorch.so ${ATTUNE_TORCH_DIR}/lib/libc10.so ${ATTUNE_TORCH_DIR}/lib/libc10_cuda.so
    ${_cuda_packages}/lib/libcublas.so.13 ${_cuda_packages}/lib/libcublasLt.so.13 -Wl,-rpath,${_cuda_packages}/lib -Wl,-rpath,${ATTUNE_TORCH_DIR}/lib)
endif()

# cuDNN's attention: its library comes with torch, its C++ interface is a package of headers.
option(ATTUNE_WITH_CUDNN "Build cuDNN's attention if its headers are there" ON)
if(ATTUNE_WITH_TORCH AND ATTUNE_WITH_CUDNN)
  cmake_path(GET ATTUNE_TORCH_DIR PARENT_PATH _site)
  if(EXISTS "${_site}/include/cudnn_frontend.h" AND EXISTS "${_site}/nvidia/cudnn/lib/libcudnn.so.9")
    add_library(attune_cudnn INTERFACE)
    target_include_directories(attune_cudnn SYSTEM INTERFACE ${_site}/include ${_site}/nvidia/cudnn/include)
    target_link_libraries(attune_cudnn INTERFACE ${_site}/nvidia/cudnn/lib/libcudnn.so.9
      ${_site}/nvidia/cu13/lib/libcudart.so.13 -Wl,-rpath,${_site}/nvidia/cudnn/lib)
  endif()
endif()

# nvcc, if there is one: without it GPUs run the plain kernels that come with torch.
option(ATTUNE_WITH_CUDA "Build the CUDA kernels if there is a CUDA compiler" ON)
set(ATTUNE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "GPUs to build the CUDA kernels for")
if(ATTUNE_WITH_TORCH AND ATTUNE_WITH_CUDA)
  find_program(ATTUNE_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(ATTUNE_NVCC)
    set(CMAKE_CUDA_COMPILER ${ATTUNE_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES ${ATTUNE_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    # Attention over the paged cache: headers alone.
    set(ATTUNE_FLASHINFER_DIR "${ATTUNE_CACHE}/flashinfer-0.6.3" CACHE PATH "FlashInfer's include folder")
    if(NOT EXISTS "${ATTUNE_FLASHINFER_DIR}/flashinfer/attention/prefill.cuh")
      message(FATAL_ERROR "No FlashInfer 0.6.3 in '${ATTUNE_FLASHINFER_DIR}': run deploy/install-dependencies")
    endif()
  else()
    set(ATTUNE_WITH_CUDA OFF)
  endif()
endif()
