#!/usr/bin/env python3
"""Whether advice is right: ten tasks made of two data sets, for each the advice first, then the comparison that judges it.

    tests/bench/run_advise.py --model MODEL.gguf --r8 DIR --banking77 DIR --output FOLDER [--device cuda] [--servers 3]

R8's folder has train.jsonl and test.jsonl with `text` and `label`, Banking77's train.csv and test.csv with `text` and
`category`. Tasks differ in labels and in training rows, 8 to all; --list prints them. Each has a fresh server that knows
no comparison (--keep-server: one for all, whose rules learn from task to task). FOLDER gets each task's advice and
comparison as JSON, the logs, and table.md, written anew after every task; --table-only draws it from what is there, which
may come from several runs.

Right (`within`): the advised method's measured quality is at least the lower end of the 95% interval of the best one's.
"""
import argparse
import collections
import csv
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import run_compare

PROMPTS = {"r8": "Text: {{text}}\\nTopic:", "banking": "Query: {{text}}\\nIntent:"}
# Data set, labels (these, or so many drawn ones) and training rows (0: all); the longest first. With fewer than two rows a
# label a server takes the answers for free text (ChoicesOf in server/comparison/parts.cc), so that 8 rows are of 4 labels.
TASKS = {
    "banking-77labels-all": ("banking", 77, 0),
    "r8-8labels-all": ("r8", 8, 0),
    "banking-10labels-all": ("banking", 10, 0),
    "banking-77labels-770rows": ("banking", 77, 770),
    "r8-4labels-512rows": ("r8", ("crude", "interest", "money-fx", "trade"), 512),
    "r8-8labels-128rows": ("r8", 8, 128),
    "banking-10labels-100rows": ("banking", 10, 100),
    "r8-2labels-32rows": ("r8", ("acq", "earn"), 32),
    "banking-2labels-16rows": ("banking", ("card arrival", "card delivery estimate"), 16),
    "r8-4labels-8rows": ("r8", ("acq", "crude", "earn", "trade"), 8),
}
LEAST_HELD_OUT = 16  # rows to choose settings by: a tenth of fewer than 160 rows is less, and of fewer than 10 refused
SETTINGS = ("model", "device", "methods", "trials", "max_tokens", "test_examples", "train_limit", "curve_seconds", "servers",
            "jobs", "max_sequences", "keep_server", "seed")  # noted with each task


def read_rows(path):
    """Rows with a label, each text once."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]
    labels = {}
    for one in rows:
        labels.setdefault(one["text"].strip(), one["label"] if "label" in one else one["category"].replace("_", " "))
    return [{"text": text, "label": label} for text, label in labels.items()]


def read_data(args):
    """By data set, its training and test rows; no text of the test part is trained on."""
    data = {}
    for name, folder, suffix in (("r8", args.r8, "jsonl"), ("banking", args.banking77, "csv")):
        train, test = (read_rows(pathlib.Path(folder, f"{part}.{suffix}")) for part in ("train", "test"))
        tested = {one["text"] for one in test}
        data[name] = [one for one in train if one["text"] not in tested], test
    return data


def draw(rows, count, rng):
    """So many rows: one of each label, the rest by the labels' shares; mixed."""
    by_label = collections.defaultdict(list)
    for one in rows:
        by_label[one["label"]].append(one)
    placed = []
    for label in sorted(by_label):
        group = rng.sample(by_label[label], len(by_label[label]))
        placed += [((i + 0.5) / len(group) if i else 0, one) for i, one in enumerate(group)]
    placed.sort(key=lambda pair: pair[0])
    return rng.sample([one for _, one in placed[:count]], min(count, len(placed)))


def build(name, data, args):
    """The task's rows by part, the same for the same seed."""
    rng = random.Random(f"{args.seed}/{name}")
    source, labels, count = TASKS[name]
    if isinstance(labels, int):
        labels = rng.sample(sorted({one["label"] for one in data[source][0]}), labels)
    train, test = ([one for one in rows if one["label"] in labels] for rows in data[source])
    count = min(count or len(train), args.train_limit or len(train))
    if not 2 * len(labels) <= count <= len(train):
        raise ValueError(f"{count} training rows for {len(labels)} labels, of {len(train)} in the data set")
    parts = {"train": draw(train, count, rng), "test": draw(test, args.test_examples, rng)}
    if count < 10 * LEAST_HELD_OUT:
        used = {one["text"] for one in parts["train"]}
        rest = [one for one in train if one["text"] not in used]
        parts["validation"] = draw(rest, max(LEAST_HELD_OUT, len(labels)), rng)
    return parts


class Server(run_compare.Server):
    """The same; it tells that it did not start, and ends for sure. What is said goes to `log`."""

    def __init__(self, args, folder, log):
        self.log, self.log_path, self._longest = log, os.path.join(folder, "server.log"), 60 * args.task_minutes
        try:
            super().__init__(args, folder)
        except KeyError:  # it ended without a word
            log.write(pathlib.Path(self.log_path).read_text(errors="replace"))
            raise RuntimeError("the server did not start; the task's log says why") from None

    def is_alive(self):
        return self._process.poll() is None

    def attune(self, *arguments):
        try:
            return super().attune(*arguments, stderr=self.log, timeout=self._longest)
        except subprocess.CalledProcessError as error:
            self.log.write(error.stdout)
            raise

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()  # nobody needs its data
        super().stop()


def measure(server, args, name, parts, folder, record):
    """Adds advice, comparison and their times to the record."""
    for part, rows in parts.items():
        path = pathlib.Path(folder, f"{name}-{part}.jsonl")
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        server.attune("datasets", "upload", str(path), "--id", path.stem, "--template", PROMPTS[TASKS[name][0]],
                      "--completion-template", " {{label}}")
    asked = ["--base", "base", "--data", f"{name}-train", "--test", f"{name}-test", "--max-tokens", str(args.max_tokens)]
    curve = ["--curve-seconds", str(args.curve_seconds)] if args.curve_seconds else ["--no-curve"]
    begin = time.monotonic()
    record["advice"] = json.loads(server.attune("--json", "advise", *asked, *curve))
    record["advice_seconds"] = time.monotonic() - begin
    held_out = ["--validation", f"{name}-validation"] if "validation" in parts else []
    methods = ",".join(args.methods).replace("_", "-")
    begin = time.monotonic()
    server.log.write(server.attune("compare", *asked, *held_out, "--name", name, "--methods", methods, "--trials",
                                   str(args.trials), "--test-examples", str(args.test_examples), "--seed", str(args.seed),
                                   "--skip-side-effects", "--watch"))
    record["comparison_seconds"] = time.monotonic() - begin
    record["comparison"] = json.loads(server.attune("--json", "comparisons", "show", name))


def reason(error, log):
    """Why a task failed, in a line: what the log calls errors, else the exception."""
    log.seek(0)
    told = [" ".join(line.split()) for line in log if line.startswith("error")]
    return "; ".join(told[-2:]) or f"{type(error).__name__}: {error}"


class Bench:
    """Works through the tasks on several servers side by side."""

    def __init__(self, args, data, folder):
        self._args, self._data, self._folder, self._output = args, data, folder, pathlib.Path(args.output)
        self._tasks = collections.deque(name for name in TASKS if name in args.tasks)
        self._lock, self._is_ending, self._servers = threading.Lock(), False, {}

    def run(self):
        """No server is left, even if it is interrupted."""
        threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(self._args.servers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            with self._lock:
                self._is_ending = True
                servers = list(self._servers.values())
            for server in servers:
                server.stop()
            for thread in threads:
                if thread.ident:
                    thread.join(60)

    def _work(self, i):
        sets = self._args.cpus.split(",")
        if sets[0]:  # of this thread: what it starts inherits them
            thread = str(threading.get_native_id())
            subprocess.run(["taskset", "-p", "-c", sets[i % len(sets)], thread], check=True, stdout=sys.stderr)
        while self._tasks and not self._is_ending:
            with self._lock:
                name = self._tasks.popleft() if self._tasks else None
            if name:
                self._run_task(i, name)
        self._stop(i)

    def _run_task(self, i, name):
        settings = {key: getattr(self._args, key) for key in SETTINGS} | {"model": os.path.basename(self._args.model)}
        record = {"name": name, "settings": settings}
        with open(self._output / f"{name}.log", "w+", encoding="utf-8", errors="replace", buffering=1) as log:
            try:
                parts = build(name, self._data, self._args)
                measure(self._server(i, log), self._args, name, parts, self._folder, record)
                judge(record)  # a figure that is missing shows now
            except Exception as error:  # whatever it is, the other tasks go on
                record["error"] = reason(error, log)
                time.sleep(2)  # a signal to all processes may have reached the server first
        server = self._servers.get(i)
        if server:
            shutil.copy(server.log_path, self._output / f"{name}.server.log")
        if server and not (self._args.keep_server and server.is_alive()):
            self._stop(i)
        with self._lock:
            if "error" in record and self._is_ending:
                return  # it was stopped
            write(self._output / f"{name}.json", json.dumps(record, indent=1))
            write(self._output / "table.md", table(read_records(self._output)))
            print(" | ".join(cells(record, judge(record))), flush=True)

    def _server(self, i, log):
        if i not in self._servers:
            server = Server(self._args, tempfile.mkdtemp(dir=self._folder), log)
            with self._lock:
                self._servers[i] = server
                if self._is_ending:  # and run() did not see it
                    raise RuntimeError("stopped")
            server.attune("models", "import", os.path.abspath(self._args.model), "--id", "base")
        self._servers[i].log = log
        return self._servers[i]

    def _stop(self, i):
        if i in self._servers:
            self._servers[i].stop()
            del self._servers[i]


def write(path, text):
    """As a whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_records(folder):
    paths = [pathlib.Path(folder, name + ".json") for name in TASKS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def judge(record):
    """What came of the advice; where nothing did, `error` alone."""
    if "error" in record:
        return {"error": record["error"]}
    ranked, results = record["advice"]["recommendations"], record["comparison"]["results"]
    kinds = {one["kind"]: one for one in results}
    figures = {kind: run_compare.measures(one) for kind, one in kinds.items()}
    qualities = {kind: one["quality"] for kind, one in figures.items() if "quality" in one}
    first = next((one for one in ranked if one["kind"] in kinds), {"kind": "NOTHING"})
    if first["kind"] not in qualities:
        return {"error": f"{first['kind'].lower()} was advised, which was not measured"}
    best = max(qualities, key=lambda kind: qualities[kind]["value"])
    measured, standing = qualities[first["kind"]]["value"], kinds[first["kind"]]
    notes = [f"its very first was {ranked[0]['kind'].lower()}"] if ranked[0] is not first else []
    notes += [f"{kind.lower()} was not measured" for kind in kinds if kind not in qualities]
    return {"first": first, "best": best, "qualities": qualities, "measured": measured, "notes": "; ".join(notes),
            "within": measured >= qualities[best]["lower"], "tied": standing["rank"] == 1 or standing["ties_best"],
            "in_range": first["lower"] <= measured <= first["upper"],
            "right_kinds": [kind for kind, one in qualities.items() if one["value"] >= qualities[best]["lower"]]}


def spread(figure, name="value"):
    return f"{figure[name]:.3f} ({figure['lower']:.3f} to {figure['upper']:.3f})"


def cells(record, found):
    if "error" in found:
        return [record["name"], "", "failed", *[""] * 4, "no", "", "", "", "", "", found["error"].replace("|", "/")]
    advice, comparison = record["advice"], record["comparison"]
    sizes = " / ".join(str(comparison[f"{part}_examples"]) for part in ("train", "validation", "test"))
    return [record["name"], sizes + (" *" if comparison["validation_dataset"] else ""), found["first"]["kind"].lower(),
            advice["verdict"].lower(), spread(found["first"], "quality"), f"{found['measured']:.3f}",
            f"{found['best'].lower()} {spread(found['qualities'][found['best']])}",
            *("yes" if found[name] else "no" for name in ("within", "tied", "in_range")), str(advice["past_comparisons"]),
            f"{record['advice_seconds']:.0f}", f"{record['comparison_seconds']:.0f}", found["notes"]]


def markdown(header, rows):
    return ["", *(f"| {' | '.join(one)} |" for one in [header, ["---"] * len(header), *rows])]


def table(records):
    """All as markdown."""
    judged = [(record, judge(record)) for record in records]
    good = [(record["name"], found) for record, found in judged if "error" not in found]
    kinds = list(dict.fromkeys(kind for _, found in good for kind in found["qualities"]))
    figure = lambda found, kind: f"{found['qualities'][kind]['value']:.3f}" if kind in found["qualities"] else ""
    always = [f"{kind.lower()} {sum(kind in found['right_kinds'] for _, found in good)}" for kind in kinds]
    missing = [name for name in TASKS if name not in [record["name"] for record in records]]
    return "\n".join([
        *dict.fromkeys(json.dumps(record["settings"])[1:-1].replace('"', "") for record in records),
        *markdown(["task", "rows to train / choose / test", "advised", "verdict", "expected", "measured", "best", "within",
                   "tied", "in range", "past", "advice s", "comparison s", "notes"], [cells(*pair) for pair in judged]),
        *markdown(["measured", *(kind.lower() for kind in kinds)],
                  [[name, *(figure(found, kind) for kind in kinds)] for name, found in good]),
        "\nadvised: the first recommendation among the compared methods; the comparison was made after it. within: what it "
        "measured is at least the lower end of the best one's 95% interval. tied: the comparison does not tell it from the "
        "best. in range: what it measured is in the range that was expected. past: comparisons that had taught the rules.",
        f"\n*: too few rows to hold a tenth out. Settings are chosen by {LEAST_HELD_OUT} further rows of the data set's "
        "training part (at least one a label), which the advice does not see.",
        f"\nWithin if the same method were always advised: {', '.join(always)}. The expected range held what was measured in "
        f"{sum(found['in_range'] for _, found in good)} of {len(good)}.",
        *([f"\nNot run: {', '.join(missing)}."] if missing else []),
        f"\nright in {sum(found['within'] for _, found in good)} of {len(judged)}"]) + "\n"


def list_tasks(data, args):
    for name in args.tasks:
        parts = build(name, data, args)
        counts = collections.Counter(one["label"] for one in parts["train"])
        print(f"{name}: {', '.join(f'{len(rows)} {part}' for part, rows in parts.items())}; labels: "
              f"{', '.join(f'{label} {count}' for label, count in counts.most_common(10))}{', ...' * (len(counts) > 10)}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["zero_shot", "text_prompt", "soft_prompt", "lora", "full"])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME", help="default: all ten")
    for name, default, text in (
            ("model", "", "GGUF file or folder"), ("r8", "", "folder"), ("banking77", "", "folder"), ("output", "", "folder"),
            ("device", "cpu", ""), ("trials", 1, "of each method"), ("seed", 42, "of the tasks and comparisons"),
            ("servers", 1, "side by side; more finish sooner, and their times say less"),
            ("cpus", "", "a set for each server, for instance 0-3,4-7"), ("jobs", 1, "at once on each server"),
            ("max-sequences", 64, ""), ("max-tokens", 256, ""), ("test-examples", 500, "at most"),
            ("train-limit", 0, "training rows, at most; 0: no limit"), ("curve-seconds", 60.0, "0: no learning curve"),
            ("task-minutes", 60.0, "longest time of one command of a task"),
            ("attuned", str(run_compare.ROOT / "build/server/attuned"), "program"),
            ("attune", str(run_compare.ROOT / "build/client/attune"), "program")):
        parser.add_argument("--" + name, type=type(default), default=default, help=text)
    for name, text in (("keep-server", "each server for all of its tasks: advice learns from task to task"),
                       ("list", "only print the tasks and their sizes"), ("table-only", "only draw the table of --output")):
        parser.add_argument("--" + name, action="store_true", help=text)
    args = parser.parse_args()
    needed = ["output"] if args.table_only else ["r8", "banking77"] if args.list else ["model", "r8", "banking77", "output"]
    missing = [f"--{name}" for name in needed if not getattr(args, name)]
    if missing:
        parser.error(f"needs {' '.join(missing)}")
    return args


def main():
    args = parse()
    if args.list:
        return list_tasks(read_data(args), args)
    if not args.table_only:
        data = read_data(args)
        pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with tempfile.TemporaryDirectory(prefix="attune_advise.", ignore_cleanup_errors=True) as folder:
            Bench(args, data, folder).run()
    text = table(read_records(args.output))
    write(pathlib.Path(args.output, "table.md"), text)
    print("\n" + text, flush=True)


if __name__ == "__main__":
    main()
