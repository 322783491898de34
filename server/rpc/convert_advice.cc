#include "server/rpc/convert_advice.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/jobs/validate.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

constexpr double kUsualCurveSeconds = 60, kLongestCurve = 3600;
constexpr double kAny = std::numeric_limits<double>::max();

absl::StatusOr<Needs> ToNeeds(const v1::Needs& in) {
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.accuracy(), 0, 1, "needs.accuracy"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.deadline_seconds(), 0, kAny, "needs.deadline_seconds"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.budget(), 0, kAny, "needs.budget"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.price_per_device_hour(), 0, kAny, "needs.price_per_device_hour"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.lifetime_days(), 0, kAny, "needs.lifetime_days"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.tenants(), int64_t{0}, std::numeric_limits<int64_t>::max(), "needs.tenants"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.request_milliseconds(), 0, kAny, "needs.request_milliseconds"));
  if (in.budget() > 0 && in.price_per_device_hour() == 0) {
    return InvalidField("needs.price_per_device_hour", "is required with a budget");
  }
  return Needs{in.accuracy(),    in.deadline_seconds(), in.budget(),  in.price_per_device_hour(),
               in.keep_skills(), in.lifetime_days(),    in.tenants(), in.request_milliseconds()};
}

// A job's checks of data options and tenant are those of the short jobs, too.
absl::Status CheckAsJob(const AdviceRequest& request) {
  JobSpec job;
  job.base_model = request.base_model;
  job.dataset = request.dataset;
  job.method = LoraSpec();
  job.data = request.data;
  job.tenant = request.tenant;
  return ValidateJobSpec(job);
}

v1::Comparison::ContenderKind ToProto(ContenderKind kind) { return static_cast<v1::Comparison::ContenderKind>(kind); }

v1::Advice::Finding ToProto(const Finding& in) {
  v1::Advice::Finding out;
  out.set_name(in.name);
  out.set_value(in.value);
  out.set_lower(in.lower);
  out.set_upper(in.upper);
  out.set_count(in.count);
  out.set_text(in.text);
  out.set_severity(static_cast<v1::Advice::Finding::Severity>(in.severity));
  return out;
}

v1::Advice::Recommendation ToProto(const Recommendation& in) {
  v1::Advice::Recommendation out;
  out.set_kind(ToProto(in.kind));
  out.set_quality(in.quality);
  out.set_lower(in.lower);
  out.set_upper(in.upper);
  out.set_device_seconds(in.device_seconds);
  out.set_price(in.price);
  out.set_meets_needs(in.meets_needs);
  out.set_confidence(static_cast<v1::Advice::Recommendation::Confidence>(in.confidence));
  for (const Reason& reason : in.reasons) {
    v1::Advice::Reason* one = out.add_reasons();
    one->set_text(reason.text);
    one->mutable_evidence()->Add(reason.evidence.begin(), reason.evidence.end());
    one->set_against(reason.is_against);
  }
  return out;
}

v1::Advice::Settlement ToProto(const Settlement& in) {
  v1::Advice::Settlement out;
  for (ContenderKind kind : in.contenders) out.add_contenders(ToProto(kind));
  out.set_rows(in.rows);
  out.set_device_seconds(in.device_seconds);
  out.set_text(in.text);
  return out;
}

}  // namespace

absl::StatusOr<AdviceRequest> ToAdviceRequest(const v1::AdviseRequest& in) {
  AdviceRequest out;
  ATTUNE_ASSIGN_OR_RETURN(out.base_model, ParseName(kModels, in.base_model(), "base_model"));
  ATTUNE_ASSIGN_OR_RETURN(out.dataset, ParseName(kDatasets, in.dataset(), "dataset"));
  if (!in.test_dataset().empty()) {
    ATTUNE_ASSIGN_OR_RETURN(out.test_dataset, ParseName(kDatasets, in.test_dataset(), "test_dataset"));
  }
  ATTUNE_RETURN_IF_ERROR(CheckDataOptions(in.data(), "data"));
  out.data = ToDataOptions(in.data());
  ATTUNE_ASSIGN_OR_RETURN(out.needs, ToNeeds(in.needs()));
  if (in.curve_seconds() != 0)
    ATTUNE_RETURN_IF_ERROR(CheckRange(in.curve_seconds(), 1, kLongestCurve, "curve_seconds"));
  out.curve_seconds = in.skip_curve() ? 0 : in.curve_seconds() > 0 ? in.curve_seconds() : kUsualCurveSeconds;
  if (in.has_seed()) out.seed = static_cast<uint64_t>(in.seed());
  out.tenant = in.tenant();
  ATTUNE_RETURN_IF_ERROR(CheckAsJob(out));
  return out;
}

v1::Advice ToProto(const Advice& in) {
  v1::Advice out;
  for (const Finding& finding : in.findings) *out.add_findings() = ToProto(finding);
  for (const Recommendation& one : in.ranking.recommendations) *out.add_recommendations() = ToProto(one);
  out.set_verdict(static_cast<v1::Advice::Verdict>(in.ranking.verdict));
  out.set_text(in.ranking.text);
  if (!in.ranking.settlement.contenders.empty()) *out.mutable_settlement() = ToProto(in.ranking.settlement);
  if (in.retrospective) *out.mutable_retrospective() = ToProto(*in.retrospective);
  out.set_past_comparisons(in.past_comparisons);
  out.set_seconds(in.seconds);
  return out;
}

v1::Retrospective ToProto(const Retrospective& in) {
  v1::Retrospective out;
  out.set_comparison(absl::StrCat(kComparisons, "/", in.comparison));
  out.set_named(ToProto(in.named));
  out.set_best(ToProto(in.best));
  out.set_expected(in.expected);
  out.set_expected_lower(in.expected_lower);
  out.set_expected_upper(in.expected_upper);
  out.set_named_quality(in.named_quality);
  out.set_best_quality(in.best_quality);
  out.set_best_lower(in.best_lower);
  out.set_right(in.was_right);
  out.set_ranges_held(in.ranges_held);
  out.set_ranges(in.ranges);
  out.set_text(in.text);
  return out;
}

}  // namespace attune
