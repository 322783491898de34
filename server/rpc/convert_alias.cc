#include "server/rpc/convert_alias.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

v1::Alias::Target ToProto(const AliasTarget& in) {
  v1::Alias::Target out;
  out.set_model(absl::StrCat(kModels, "/", in.model));
  out.set_weight(static_cast<int32_t>(in.weight));
  return out;
}

v1::Alias::Setting ToProto(const AliasSetting& in) {
  v1::Alias::Setting out;
  for (const AliasTarget& target : in.targets) *out.add_targets() = ToProto(target);
  *out.mutable_set_time() = ToTimestamp(in.set_time);
  out.set_revision(in.revision);
  return out;
}

}  // namespace

absl::StatusOr<std::vector<AliasTarget>> ToAliasTargets(const v1::Alias& alias) {
  std::vector<AliasTarget> targets;
  const bool is_sole = alias.targets_size() == 1;
  for (int i = 0; i < alias.targets_size(); ++i) {
    const v1::Alias::Target& in = alias.targets(i);
    ATTUNE_ASSIGN_OR_RETURN(std::string model,
                            ParseName(kModels, in.model(), absl::StrCat("alias.targets[", i, "].model")));
    targets.push_back({std::move(model), is_sole && in.weight() == 0 ? 1 : in.weight()});
  }
  return targets;
}

v1::Alias ToProto(const Alias& alias) {
  v1::Alias out;
  out.set_name(absl::StrCat(kAliases, "/", alias.id));
  for (const AliasSetting& setting : alias.settings) *out.add_history() = ToProto(setting);
  *out.mutable_targets() = out.history(0).targets();
  *out.mutable_create_time() = ToTimestamp(alias.create_time);
  *out.mutable_update_time() = out.history(0).set_time();
  out.set_etag(alias.etag);
  return out;
}

}  // namespace attune
