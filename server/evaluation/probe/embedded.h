#ifndef ATTUNE_SERVER_EVALUATION_PROBE_EMBEDDED_H_
#define ATTUNE_SERVER_EVALUATION_PROBE_EMBEDDED_H_

#include "absl/strings/string_view.h"

// The files of this folder, byte by byte. Their sources are written by the build (attune_embed in deploy/cmake).
namespace attune {

absl::string_view EmbeddedProbeItems();  // items.jsonl
absl::string_view EmbeddedProbeText();   // text.txt

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROBE_EMBEDDED_H_
