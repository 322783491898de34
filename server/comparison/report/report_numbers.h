#ifndef ATTUNE_SERVER_COMPARISON_REPORT_NUMBERS_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_NUMBERS_H_

#include <cstdint>
#include <string>

#include "server/comparison/comparison.h"

// Figures as a report tells them: three digits at most, units that people use, and an en dash for what is no number.
namespace attune {

std::string CountText(int64_t count);       // "5,485"
std::string ShareText(double share);        // "91.2%"
std::string PointsText(double difference);  // of two shares: "−1.3 points"
std::string SecondsText(double seconds);    // "0.4 s", "2 min 05 s", "3 h 10 min"; 0: "none"
std::string BytesText(double bytes);        // "12.3 MB", decimal; 0: "none"
std::string EnergyText(double joules);      // "640 J", "12.3 kJ", "1.02 MJ"; 0: "none"
std::string MillisecondsText(double milliseconds);
std::string PriceText(double price);   // two decimals, more below 0.1; 0: "none"
std::string PlainText(double number);  // three digits

// Whether it is a number, and none so large that a drawing would overflow.
bool IsTellable(double number);

// With the unit that belongs to its name.
std::string ValueText(const Measure& measure);
// "89.8–92.4%"; empty if it has none.
std::string IntervalText(const Measure& measure);
// Whether it has one that a plot can show.
bool HasInterval(const Measure& measure);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_NUMBERS_H_
