#include "server/rpc/comparison_service.h"

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/comparison/report/report_html.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_comparison.h"
#include "server/rpc/paging.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "ComparisonService";
// A watcher is woken by changes and by its caller's leaving; this is only how long one wait may last.
constexpr absl::Duration kWatchWait = absl::Seconds(10);

absl::StatusOr<std::string> ComparisonId(Call& call, const std::string& name) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kComparisons, name, "name"));
  call.Note("comparison", name);
  return id;
}

}  // namespace

absl::Status ComparisonService::DoCreate(Call& call, const v1::CreateComparisonRequest& request,
                                         v1::Comparison* response) {
  if (!request.has_comparison()) return InvalidField("comparison", "is required");
  ATTUNE_RETURN_IF_ERROR(CheckLength(request.request_id(), 128, "request_id"));
  ATTUNE_ASSIGN_OR_RETURN(ComparisonSpec spec, ToComparisonSpec(request.comparison(), request.comparison_id()));
  ATTUNE_ASSIGN_OR_RETURN(Comparison made, deps_.comparisons->Create(std::move(spec), request.request_id()));
  *response = ToProto(made);
  call.Note("comparison", response->name());
  return absl::OkStatus();
}

grpc::Status ComparisonService::CreateComparison(grpc::ServerContext* context,
                                                 const v1::CreateComparisonRequest* request,
                                                 v1::Comparison* response) {
  return ServeCall(context, deps_.metrics, kService, "CreateComparison",
                   [&](Call& call) { return DoCreate(call, *request, response); });
}

grpc::Status ComparisonService::GetComparison(grpc::ServerContext* context, const v1::GetComparisonRequest* request,
                                              v1::Comparison* response) {
  return ServeCall(context, deps_.metrics, kService, "GetComparison", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, ComparisonId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, deps_.comparisons->Get(id));
    *response = ToProto(comparison);
    return absl::OkStatus();
  });
}

grpc::Status ComparisonService::ListComparisons(grpc::ServerContext* context,
                                                const v1::ListComparisonsRequest* request,
                                                v1::ListComparisonsResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ListComparisons", [&](Call&) -> absl::Status {
    std::string next;
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Comparison> page, ListPage(kComparisons, *request, [&](int limit, int64_t before) {
                              return deps_.comparisons->List(limit, before);
                            }, &next));
    for (const Comparison& comparison : page) *response->add_comparisons() = ToProto(comparison);
    response->set_next_page_token(next);
    return absl::OkStatus();
  });
}

grpc::Status ComparisonService::CancelComparison(grpc::ServerContext* context,
                                                 const v1::CancelComparisonRequest* request,
                                                 v1::Comparison* response) {
  return ServeCall(context, deps_.metrics, kService, "CancelComparison", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, ComparisonId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, deps_.comparisons->Cancel(id));
    *response = ToProto(comparison);
    return absl::OkStatus();
  });
}

grpc::Status ComparisonService::DeleteComparison(grpc::ServerContext* context,
                                                 const v1::DeleteComparisonRequest* request,
                                                 google::protobuf::Empty*) {
  return ServeCall(context, deps_.metrics, kService, "DeleteComparison", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, ComparisonId(call, request->name()));
    return deps_.comparisons->Delete(id);
  });
}

absl::Status ComparisonService::DoWatch(Call& call, const v1::WatchComparisonRequest& request,
                                        grpc::ServerWriter<v1::Comparison>* writer) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ComparisonId(call, request.name()));
  if (request.after_version() < 0) return InvalidField("after_version", "must not be negative");
  CancelWatcher::Watch watch(
      deps_.cancel_watcher, [&call] { return call.cancelled(); }, [this] { deps_.comparisons->WakeWatchers(); });
  int64_t version = request.after_version();
  while (true) {
    absl::StatusOr<Comparison> comparison =
        deps_.comparisons->Wait(id, version, absl::Now() + kWatchWait, [&call] { return call.cancelled(); });
    if (call.cancelled()) return call.CancelledStatus();
    ATTUNE_RETURN_IF_ERROR(comparison.status());
    const bool is_new = comparison->version > version;
    if (is_new && !writer->Write(ToProto(*comparison))) return call.CancelledStatus();
    version = comparison->version;
    if (IsFinal(comparison->state)) return absl::OkStatus();
  }
}

grpc::Status ComparisonService::WatchComparison(grpc::ServerContext* context,
                                                const v1::WatchComparisonRequest* request,
                                                grpc::ServerWriter<v1::Comparison>* writer) {
  return ServeCall(context, deps_.metrics, kService, "WatchComparison",
                   [&](Call& call) { return DoWatch(call, *request, writer); });
}

grpc::Status ComparisonService::GetComparisonReport(grpc::ServerContext* context,
                                                    const v1::GetComparisonReportRequest* request,
                                                    v1::GetComparisonReportResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "GetComparisonReport", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, ComparisonId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, deps_.comparisons->Get(id));
    response->set_html(ReportHtml(comparison, absl::Now()));
    return absl::OkStatus();
  });
}

}  // namespace attune
