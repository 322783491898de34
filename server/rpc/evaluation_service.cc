#include "server/rpc/evaluation_service.h"

#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/evaluation/evaluator.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "EvaluationService";
constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);
constexpr int kMostChoices = 1000;
constexpr int kDefaultMaxTokens = 64;

absl::Status CheckChoices(const v1::EvaluateRequest& request) {
  if (request.choices().empty()) return absl::OkStatus();
  if (request.choices_size() < 2 || request.choices_size() > kMostChoices) {
    return InvalidField("choices", absl::StrCat("must be 2 to ", kMostChoices, ", or none"));
  }
  std::set<std::string> seen;
  for (int i = 0; i < request.choices_size(); ++i) {
    if (request.choices(i).empty()) return InvalidField(absl::StrCat("choices[", i, "]"), "must not be empty");
    if (!seen.insert(request.choices(i)).second) {
      return InvalidField(absl::StrCat("choices[", i, "]"), "must be distinct from the others");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EvaluationOptions> ToOptions(const v1::EvaluateRequest& request) {
  EvaluationOptions out;
  ATTUNE_ASSIGN_OR_RETURN(out.dataset, ParseName(kDatasets, request.dataset(), "dataset"));
  ATTUNE_RETURN_IF_ERROR(
      CheckRange(request.max_examples(), 0, std::numeric_limits<int64_t>::max(), "max_examples"));
  ATTUNE_RETURN_IF_ERROR(CheckChoices(request));
  ATTUNE_RETURN_IF_ERROR(
      CheckRange(int64_t{request.max_tokens()}, 0, std::numeric_limits<int32_t>::max(), "max_tokens"));
  ATTUNE_RETURN_IF_ERROR(CheckDataOptions(request.data(), "data"));
  out.max_examples = request.max_examples();
  out.choices.assign(request.choices().begin(), request.choices().end());
  out.exact_match = request.exact_match();
  out.prompt_template = request.data().prompt_template();
  out.completion_template = request.data().completion_template();
  out.max_sequence_tokens = request.data().max_sequence_tokens();
  out.max_tokens = request.max_tokens() > 0 ? request.max_tokens() : kDefaultMaxTokens;
  return out;
}

v1::Proportion ToProto(const Proportion& in) {
  v1::Proportion out;
  out.set_value(in.value);
  out.set_lower(in.lower);
  out.set_upper(in.upper);
  out.set_count(in.count);
  return out;
}

v1::EvaluationResult ToProto(const EvaluationResult& in, const ServedModel& model, const v1::EvaluateRequest& request) {
  v1::EvaluationResult out;
  out.set_model(ModelName(model));
  out.set_dataset(request.dataset());
  out.set_examples(in.examples);
  if (in.has_label_accuracy) *out.mutable_label_accuracy() = ToProto(in.label_accuracy);
  if (in.has_exact_match) *out.mutable_exact_match() = ToProto(in.exact_match);
  out.set_token_accuracy(in.token_accuracy);
  out.set_loss(in.loss);
  out.set_perplexity(in.perplexity);
  for (const LabelResult& label : in.labels) {
    auto* result = out.add_labels();
    result->set_label(label.label);
    result->set_count(label.count);
    result->set_correct(label.correct);
    result->set_predicted(label.predicted);
  }
  out.set_seconds(in.seconds);
  return out;
}

}  // namespace

absl::Status EvaluationService::DoEvaluate(Call& call, const v1::EvaluateRequest& request,
                                           grpc::ServerWriter<v1::EvaluateResponse>* writer) {
  ATTUNE_ASSIGN_OR_RETURN(std::string model_id, ParseName(kModels, request.model(), "model"));
  ATTUNE_ASSIGN_OR_RETURN(EvaluationOptions options, ToOptions(request));
  call.Note("model", request.model());
  call.Note("dataset", request.dataset());
  ATTUNE_RETURN_IF_ERROR(deps_.datasets->Get(options.dataset).status());  // before a model is loaded for nothing
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.models(model_id, ""));

  absl::Time next_report = absl::InfinitePast();
  v1::EvaluateResponse message;
  absl::StatusOr<EvaluationResult> result =
      attune::Evaluate(deps_.engine, model, *deps_.datasets, options, [&](int64_t done, int64_t total) {
        message.set_done(done);
        message.set_total(total);
        if (call.cancelled()) return false;
        if (absl::Now() < next_report) return true;
        next_report = absl::Now() + kProgressInterval;
        return writer->Write(message);
      });
  if (call.cancelled()) return call.CancelledStatus();
  ATTUNE_RETURN_IF_ERROR(result.status());
  *message.mutable_result() = ToProto(*result, *model, request);
  return writer->Write(message) ? absl::OkStatus() : call.CancelledStatus();
}

grpc::Status EvaluationService::Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest* request,
                                         grpc::ServerWriter<v1::EvaluateResponse>* writer) {
  return ServeCall(context, deps_.metrics, kService, "Evaluate",
                   [&](Call& call) { return DoEvaluate(call, *request, writer); });
}

}  // namespace attune
