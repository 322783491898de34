#ifndef ATTUNE_SERVER_COMPARISON_REPORT_SECTIONS_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_SECTIONS_H_

#include <string>

#include "absl/time/time.h"
#include "server/comparison/comparison.h"

// The parts of a report, in their order. Each is one element of HTML; empty where there is nothing to tell.
namespace attune {

std::string HeadSection(const Comparison& comparison, absl::Time now);
std::string ContendersSection(const Comparison& comparison);
std::string CostSection(const Comparison& comparison);
std::string CurvesSection(const Comparison& comparison);
std::string SideEffectsSection(const Comparison& comparison);
std::string OtherFiguresSection(const Comparison& comparison);
std::string TrialsSection(const Comparison& comparison);
std::string ExamplesSection(const Comparison& comparison);
std::string SettingsSection(const Comparison& comparison);
std::string GlossarySection(const Comparison& comparison);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_SECTIONS_H_
