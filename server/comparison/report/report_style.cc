#include "server/comparison/report/report_style.h"

#include <string>

namespace attune {
namespace {

constexpr char kColours[] = R"css(
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1a; --soft: #5c5b57; --line: #d9d7d1; --faint: #f4f2ed;
  --accent: #0a5c8f; --tint: #b9cfdd; --bar: #cfccc4; --right: #1c6b35; --wrong: #a3341c; }
@media (prefers-color-scheme: dark) { :root { --paper: #161715; --ink: #eceae4; --soft: #aaa79f; --line: #3a3b37;
  --faint: #20221f; --accent: #7fbde8; --tint: #2f5673; --bar: #4d4e49; --right: #7fcf97; --wrong: #f0957e; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --faint: #fff;
  --accent: #004a7a; --tint: #b9cfdd; --bar: #ccc; --right: #14522a; --wrong: #8a2510; } }
)css";

constexpr char kText[] = R"css(
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
h1, h2, .answer { font-family: ui-serif, Charter, "Iowan Old Style", Georgia, "Times New Roman", serif; }
h1 { font-size: clamp(1.5rem, 1.2rem + 1.6vw, 2.1rem); line-height: 1.2; margin: 0; font-weight: 600; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .75rem; font-weight: 600; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 .25rem; font-weight: 600; }
p { margin: 0 0 .75rem; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.5rem; }
section > h3 { margin-top: 1.75rem; margin-bottom: .5rem; }
.prose, figcaption { max-width: 42rem; }
.note, .range, figcaption { color: var(--soft); font-size: .8125rem; line-height: 1.4; font-weight: 400; }
.sign { color: var(--accent); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
code, pre, .written { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .8125rem; }
.written { white-space: pre-wrap; }
pre { background: var(--faint); border: 1px solid var(--line); padding: .75rem 1rem; margin: 0 0 1.25rem; overflow-x: auto;
  overflow-wrap: normal; user-select: all; }
abbr { text-decoration: none; cursor: help; }
footer { color: var(--soft); font-size: .8125rem; padding-top: 2rem; padding-bottom: 2rem; }
)css";

constexpr char kHead[] = R"css(
header { padding-top: 2rem; }
.kicker { color: var(--soft); font-size: .875rem; margin: 0 0 .25rem; }
.lead { border-left: 4px solid var(--accent); padding-left: 1rem; margin: 1.25rem 0; max-width: 46rem; }
.answer { font-size: clamp(1.6rem, 1.3rem + 2vw, 2.4rem); line-height: 1.2; margin: 0 0 .5rem; }
.verdict { font-size: 1.0625rem; margin: 0 0 .5rem; }
.key { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 0 0 1.25rem; }
.key div { display: flex; flex-direction: column-reverse; }
.key dt { color: var(--soft); font-size: .8125rem; }
.key dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .5rem 2rem;
  margin: 0; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .875rem; }
.facts dt { color: var(--soft); font-size: .8125rem; }
.facts dd { margin: 0; }
)css";

constexpr char kTables[] = R"css(
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .5rem .5rem .5rem 0; font-weight: 400; }
thead th { overflow-wrap: normal; color: var(--soft); font-size: .8125rem; vertical-align: bottom; border-bottom: 1px solid var(--ink); }
tbody tr { border-bottom: 1px solid var(--line); }
.cards .number, .cards .standing { overflow-wrap: normal; }
.cards .number { text-align: right; padding-left: .75rem; }
.cards .figure, .cards .range, .cards .standing { white-space: nowrap; }
.cards .range { display: block; }
.cards .rank { width: 3rem; color: var(--soft); }
.cards th[scope=row] { min-width: 9rem; max-width: 18rem; }
.cards tbody .name, .cards tbody th { font-weight: 600; }
.cards .note { display: block; }
.cards tr.marked { background: var(--faint); }
.cards .standing { padding-left: .75rem; }
.cards .quality { min-width: 9rem; }
.best { color: var(--accent); font-size: .75rem; font-weight: 600; }
.winner { color: var(--accent); font-size: .8125rem; font-weight: 600; white-space: nowrap; }
.missing sup { color: var(--soft); }
sup { line-height: 0; font-size: .7em; }
.intervals { table-layout: fixed; }
.intervals tbody tr { border-bottom: 0; }
.intervals th, .intervals td { padding: .2rem .5rem .2rem 0; }
.intervals tbody th { width: 36%; }
.intervals td:last-child { width: 7.5rem; padding-right: 0; }
.intervals .marked th, .intervals .marked .figure { font-weight: 600; }
.intervals .note, .intervals .range { display: block; }
.intervals .track-cell { vertical-align: top; }
.facts-table th { width: 14rem; color: var(--soft); }
.settings th, .settings td { min-width: 8rem; }
.settings td:last-child { min-width: 14rem; }
)css";

constexpr char kFigures[] = R"css(
figure { margin: 0; }
svg { display: block; overflow: visible; }
svg text { fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
svg text.tick { fill: var(--soft); font-size: 12px; }
svg text.axis-title { fill: var(--soft); font-size: 13px; }
svg text.marked { font-weight: 700; fill: var(--accent); }
svg text.label { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
.plot { width: 100%; height: auto; max-width: 56rem; }
.track { width: 100%; height: 20px; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.break { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 4; }
.leader { stroke: var(--soft); stroke-width: .75; }
.interval { stroke: var(--soft); stroke-width: 1.5; }
.interval.marked { stroke: var(--accent); stroke-width: 2.5; }
.bar { fill: var(--bar); }
.bar.marked { fill: var(--tint); }
.value { stroke: var(--ink); stroke-width: 2; }
.value.marked { stroke: var(--accent); stroke-width: 2.5; }
.dot { fill: var(--ink); }
.dot.marked { fill: var(--accent); }
.for-narrow { display: none; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem 3rem; }
.panel, article { min-width: 0; }
.panel > .note { margin-bottom: .5rem; }
.panel h3 .note { margin-left: .25rem; }
)css";

constexpr char kExamples[] = R"css(
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 2rem; }
blockquote { margin: .25rem 0 .5rem; padding: .5rem .75rem; background: var(--faint); border: 1px solid var(--line);
  font-size: .875rem; white-space: pre-wrap; }
article p { margin: 0 0 .25rem; font-size: .875rem; }
.answers td, .answers th { padding: .25rem .5rem .25rem 0; }
.answers .mark { width: 5rem; white-space: nowrap; }
.answers th { width: 46%; }
.right .mark, .right .sign { color: var(--right); }
.wrong .mark, .wrong .sign { color: var(--wrong); }
.words { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 3rem; margin: 0;
  font-size: .875rem; }
.words dt { font-weight: 600; }
.words dd { margin: 0; }
.words em { color: var(--soft); font-style: normal; }
)css";

// Below 720 px a row of the tables of methods becomes a card.
constexpr char kPhone[] = R"css(
@media screen and (max-width: 720px) {
  .for-wide { display: none; }
  .for-narrow { display: block; }
  .for-narrow .plot { max-width: 30rem; }
  .cards, .cards tbody, .cards tr, .cards td, .cards th { display: block; }
  .cards thead { display: none; }
  .cards tbody tr { display: grid; grid-template-columns: 1fr 1fr; gap: .25rem 1rem; padding: .75rem 0; }
  .cards tr.marked { margin: 0 -1rem; padding: .75rem 1rem; }
  .cards th[scope=row] { grid-column: 1 / -1; max-width: none; padding: 0; font-size: 1rem; }
  .cards td, .cards .number, .cards .standing { padding: 0; text-align: left; }
  .cards td::before { content: attr(data-label); display: block; color: var(--soft); font-size: .8125rem; }
  .cards td.rank { grid-column: 1 / -1; width: auto; font-size: .8125rem; }
  .cards td.rank::before { display: inline; margin-right: .25rem; }
  .scroll { margin: 0 -1rem; padding: 0 1rem; }
  .cards .quality { grid-column: 1 / -1; }
  .facts-table th { width: 8rem; }
  .intervals tbody th { width: 34%; }
}
)css";

constexpr char kPrint[] = R"css(
@page { size: A4; margin: 15mm 14mm; }
@media print {
  html { font-size: 9.25pt; }
  main, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  section { margin-top: 1.25rem; padding-top: 1rem; }
  h2, h3, .prose { break-after: avoid; }
  #cost, #figures, #trials, figure, .prose, .panel, article, tr, pre, .words div, .key, .lead { break-inside: avoid; }
  .scroll, pre { overflow: visible; }
  .cards .number, .cards .standing { padding-left: .6rem; padding-right: 0; }
  .cards .track { display: none; }
  .cards th[scope=row] { width: 22%; }
  pre { white-space: pre-wrap; }
  th, td { padding: .25rem .35rem .25rem 0; }
  .cards .best { font-size: .65rem; }
  .cards th[scope=row], .cards .quality, .settings th, .settings td, .settings td:last-child { min-width: 0; }
  .panels { grid-template-columns: 1fr 1fr; gap: 1rem 1.5rem; }
  .examples, .words { grid-template-columns: 1fr 1fr 1fr; gap: 1rem 1.25rem; }
  .intervals td:last-child { width: 6.5rem; }
  .cards tr.marked, .bar, .dot { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
)css";

}  // namespace

absl::string_view ReportStyle() {
  static const auto* const style = [] {
    auto* text = new std::string;
    for (const char* part : {kColours, kText, kHead, kTables, kFigures, kExamples, kPhone, kPrint}) text->append(part);
    return text;
  }();
  return *style;
}

}  // namespace attune
