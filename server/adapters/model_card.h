#ifndef ATTUNE_SERVER_ADAPTERS_MODEL_CARD_H_
#define ATTUNE_SERVER_ADAPTERS_MODEL_CARD_H_

#include <string>

#include "server/adapters/model_info.h"

namespace attune {

// The text of a README.md that tells a reader on Hugging Face's hub or on disk what the
// model is: method, base model, data format, figures. `peft`: the files are PEFT's.
std::string ModelCard(const ModelInfo& info, bool peft);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_MODEL_CARD_H_
