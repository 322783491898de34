#ifndef ATTUNE_CLIENT_CLI_DESCRIBE_H_
#define ATTUNE_CLIENT_CLI_DESCRIBE_H_

#include <ostream>
#include <string>

#include "attune/v1/alias.pb.h"
#include "attune/v1/dataset.pb.h"
#include "attune/v1/evaluation_service.pb.h"
#include "attune/v1/model.pb.h"
#include "attune/v1/tuning_service.pb.h"

// Resources and results, written out for people.
namespace attune::cli {

// "lora", "soft-prompt", "full", "partial", or "" if none is set.
std::string MethodName(const v1::TuningJob& job);
// "LoRA, rank 16, alpha 32", with what the job says.
std::string DescribeMethod(const v1::TuningJob& job);

void PrintModel(std::ostream& out, const v1::Model& model);
void PrintAlias(std::ostream& out, const v1::Alias& alias);
void PrintDataset(std::ostream& out, const v1::Dataset& dataset);
void PrintJob(std::ostream& out, const v1::TuningJob& job);
void PrintEstimate(std::ostream& out, const v1::EstimateTuningJobResponse& estimate);
void PrintEvaluation(std::ostream& out, const v1::EvaluationResult& result);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_DESCRIBE_H_
