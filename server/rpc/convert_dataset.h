#ifndef ATTUNE_SERVER_RPC_CONVERT_DATASET_H_
#define ATTUNE_SERVER_RPC_CONVERT_DATASET_H_

#include "absl/status/statusor.h"
#include "attune/v1/dataset.pb.h"
#include "attune/v1/dataset_service.pb.h"
#include "server/data/dataset_store.h"
#include "server/data/example.h"
#include "server/tokenizer/tokenizer.h"

// Data sets: protobuf to the server's types and back.
namespace attune {

// Checks every field; paths begin with "header".
absl::StatusOr<DatasetStore::UploadOptions> ToUploadOptions(const v1::UploadDatasetRequest::Header& header);

v1::Dataset ToProto(const DatasetInfo& info);
v1::PreviewDatasetResponse::Example ToProto(const Example& example, const Tokenizer& tokenizer);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_DATASET_H_
