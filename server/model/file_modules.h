#ifndef ATTUNE_SERVER_MODEL_FILE_MODULES_H_
#define ATTUNE_SERVER_MODEL_FILE_MODULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "server/model/base_model.h"

namespace attune {

// A module of the family's files inside a layer: a projection, or, where the family keeps those that share their input
// as one, all of these.
struct FileModule {
  std::string path;  // "self_attn.q_proj", "self_attn.qkv_proj"
  Linear linear;
  std::vector<Projection> projections;  // whose rows follow one another
  int64_t rows = 0;
};
// A layer's, in the order of their projections.
std::vector<FileModule> FileModules(const ModelConfig& config);

// Where the family's files keep a weight that NamedParameters names.
struct FilePart {
  std::string name;           // of the tensor that holds it, in Hugging Face's way
  int64_t row = 0, rows = 0;  // which rows of it
  int64_t all_rows = 0;       // of how many; 0: the tensor is the weight
};
FilePart FindFilePart(const ModelConfig& config, const std::string& name);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_FILE_MODULES_H_
