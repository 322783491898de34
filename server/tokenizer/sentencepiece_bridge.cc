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

// Null with a reason in *error if a token's type is none of SentencePiece's.
std::unique_ptr<ModelProto> BpeModel(const std::vector<SentencePieceToken>& tokens, bool add_space_prefix,
                                     bool remove_extra_spaces, std::string* error) {
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
  return proto;
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
  bridge->removes_extra_spaces_ = proto->normalizer_spec().remove_extra_whitespaces();
  bridge->is_unigram_ = proto->trainer_spec().model_type() == sentencepiece::TrainerSpec::UNIGRAM;
  if (!bridge->processor_->Load(std::move(proto), error)) return nullptr;
  return bridge;
}

std::unique_ptr<SentencePieceBridge> SentencePieceBridge::FromTokens(const std::vector<SentencePieceToken>& tokens,
                                                                     bool add_space_prefix, bool remove_extra_spaces,
                                                                     std::string* error) {
  std::unique_ptr<ModelProto> proto = BpeModel(tokens, add_space_prefix, remove_extra_spaces, error);
  if (proto == nullptr) return nullptr;
  std::unique_ptr<SentencePieceBridge> bridge(new SentencePieceBridge());
  bridge->tokens_ = tokens;
  bridge->add_space_prefix_ = add_space_prefix;
  bridge->removes_extra_spaces_ = remove_extra_spaces;
  if (!bridge->processor_->Load(std::move(proto), error)) return nullptr;
  return bridge;
}

std::string SentencePieceBridge::ModelOf(const std::vector<SentencePieceToken>& tokens, bool add_space_prefix,
                                         bool remove_extra_spaces, int bos_id, int eos_id, int pad_id) {
  std::string error;
  const std::unique_ptr<ModelProto> proto = BpeModel(tokens, add_space_prefix, remove_extra_spaces, &error);
  if (proto == nullptr) return "";
  sentencepiece::TrainerSpec& trainer = *proto->mutable_trainer_spec();
  trainer.set_vocab_size(static_cast<int>(tokens.size()));
  // The library goes by the texts, other readers by the ids.
  const auto text = [&tokens](int id) { return InRange(id, tokens.size()) < 0 ? std::string() : tokens[id].text; };
  trainer.set_bos_id(bos_id), trainer.set_bos_piece(text(bos_id));
  trainer.set_eos_id(eos_id), trainer.set_eos_piece(text(eos_id));
  trainer.set_pad_id(pad_id), trainer.set_pad_piece(text(pad_id));
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].type != ModelProto::SentencePiece::UNKNOWN) continue;
    trainer.set_unk_id(static_cast<int>(id)), trainer.set_unk_piece(tokens[id].text);
  }
  return proto->SerializeAsString();
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
