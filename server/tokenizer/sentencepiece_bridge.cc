#include "server/tokenizer/sentencepiece_bridge.h"

#include <sentencepiece_model.pb.h>
#include <sentencepiece_processor.h>

#include <cmath>
#include <unordered_set>
#include <utility>

namespace attune {
namespace {

using ModelProto = sentencepiece::ModelProto;

constexpr int kMaxTokens = 1 << 21;
constexpr int kMaxTokenBytes = 1 << 12;

// What the library would stop the process for, or do in another way than we say.
std::string WhatIsWrong(const ModelProto& model) {
  const auto type = model.trainer_spec().model_type();
  if (type != sentencepiece::TrainerSpec::BPE && type != sentencepiece::TrainerSpec::UNIGRAM) {
    return "its SentencePiece model is neither BPE nor unigram";
  }
  if (!model.normalizer_spec().precompiled_charsmap().empty()) {
    return "its SentencePiece normalizer \"" + model.normalizer_spec().name() + "\" changes characters";
  }
  if (!model.denormalizer_spec().precompiled_charsmap().empty()) return "its SentencePiece model has a denormalizer";
  if (!model.normalizer_spec().escape_whitespaces()) return "its SentencePiece model keeps spaces as they are";
  if (model.trainer_spec().treat_whitespace_as_suffix()) return "its SentencePiece model puts spaces after words";
  if (model.pieces_size() == 0 || model.pieces_size() > kMaxTokens) return "its SentencePiece vocabulary's size";
  std::unordered_set<std::string> seen;
  int unknown = 0, bytes = 0;
  for (const auto& piece : model.pieces()) {
    if (piece.piece().empty()) return "a SentencePiece token is empty";
    if (piece.piece().size() > kMaxTokenBytes) return "a SentencePiece token is too long";
    if (piece.piece().find('\0') != std::string::npos) return "a SentencePiece token holds a zero byte";
    if (!std::isfinite(piece.score())) return "a SentencePiece score is not a number";
    if (!seen.insert(piece.piece()).second) return "SentencePiece token \"" + piece.piece() + "\" is there twice";
    unknown += piece.type() == ModelProto::SentencePiece::UNKNOWN;
    bytes += piece.type() == ModelProto::SentencePiece::BYTE;
  }
  if (unknown != 1) return "its SentencePiece vocabulary needs one unknown token";
  if (bytes != (model.trainer_spec().byte_fallback() ? 256 : 0)) return "its SentencePiece byte tokens are not complete";
  return "";
}

int InRange(int id, size_t size) { return id >= 0 && id < static_cast<int>(size) ? id : -1; }

}  // namespace

struct SentencePieceBridge::Processor {
  sentencepiece::SentencePieceProcessor library;

  bool Load(std::unique_ptr<ModelProto> model, std::string* error) {
    *error = WhatIsWrong(*model);
    if (!error->empty()) return false;
    const auto status = library.Load(std::move(model));
    if (!status.ok()) *error = "its SentencePiece model does not load: " + status.ToString();
    return status.ok();
  }
};

SentencePieceBridge::SentencePieceBridge() : processor_(std::make_unique<Processor>()) {}
SentencePieceBridge::~SentencePieceBridge() = default;

std::unique_ptr<SentencePieceBridge> SentencePieceBridge::FromModel(const std::string& model, std::string* error) {
  auto proto = std::make_unique<ModelProto>();
  if (!proto->ParseFromString(model)) {
    *error = "its SentencePiece model is broken";
    return nullptr;
  }
  std::unique_ptr<SentencePieceBridge> bridge(new SentencePieceBridge());
  for (const auto& piece : proto->pieces()) {
    bridge->tokens_.push_back({piece.piece(), piece.score(), static_cast<int>(piece.type())});
  }
  bridge->add_space_prefix_ = proto->normalizer_spec().add_dummy_prefix();
  if (!bridge->processor_->Load(std::move(proto), error)) return nullptr;
  return bridge;
}

std::unique_ptr<SentencePieceBridge> SentencePieceBridge::FromTokens(const std::vector<SentencePieceToken>& tokens,
                                                                     bool add_space_prefix, bool remove_extra_spaces,
                                                                     std::string* error) {
  auto proto = std::make_unique<ModelProto>();
  bool bytes = false;
  for (const SentencePieceToken& token : tokens) {
    if (!ModelProto::SentencePiece::Type_IsValid(token.type)) {
      *error = "a token's type is not known";
      return nullptr;
    }
    auto* piece = proto->add_pieces();
    piece->set_piece(token.text);
    piece->set_score(token.score);
    piece->set_type(static_cast<ModelProto::SentencePiece::Type>(token.type));
    bytes = bytes || token.type == ModelProto::SentencePiece::BYTE;
  }
  proto->mutable_trainer_spec()->set_model_type(sentencepiece::TrainerSpec::BPE);
  proto->mutable_trainer_spec()->set_byte_fallback(bytes);
  proto->mutable_normalizer_spec()->set_name("identity");
  proto->mutable_normalizer_spec()->set_add_dummy_prefix(add_space_prefix);
  proto->mutable_normalizer_spec()->set_remove_extra_whitespaces(remove_extra_spaces);
  std::unique_ptr<SentencePieceBridge> bridge(new SentencePieceBridge());
  bridge->tokens_ = tokens;
  bridge->add_space_prefix_ = add_space_prefix;
  if (!bridge->processor_->Load(std::move(proto), error)) return nullptr;
  return bridge;
}

void SentencePieceBridge::Encode(const char* text, size_t size, std::vector<int>* ids) const {
  // It fails only for models that did not load.
  if (!processor_->library.Encode(std::string_view(text, size), ids).ok()) ids->clear();
}

int SentencePieceBridge::unk_id() const { return InRange(processor_->library.unk_id(), tokens_.size()); }
int SentencePieceBridge::bos_id() const { return InRange(processor_->library.bos_id(), tokens_.size()); }
int SentencePieceBridge::eos_id() const { return InRange(processor_->library.eos_id(), tokens_.size()); }
int SentencePieceBridge::pad_id() const { return InRange(processor_->library.pad_id(), tokens_.size()); }

}  // namespace attune
