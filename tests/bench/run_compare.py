#!/usr/bin/env python3
"""A comparison of tuning methods on a real task, through a server of its own; with several seeds, how stable its ranking is.

    tests/bench/run_compare.py --model MODEL.gguf --train r8/train.jsonl [--test r8/test.jsonl] [--seeds 3] [--device cuda]

Rows are JSON lines with `text` and `label`, or CSV with `text` and `category` (Banking77). Prints a table for each seed and
Kendall's tau-b between the seeds' qualities; --output keeps each comparison as JSON and its report as HTML.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Server:
    """An attuned on free ports with an empty data folder."""

    def __init__(self, args, folder):
        command = [args.attuned, "--data-dir", os.path.join(folder, "data"), "--listen", "127.0.0.1:0", "--http-listen",
                   "127.0.0.1:0", "--device", args.device, "--import-root", os.path.dirname(os.path.abspath(args.model)),
                   "--max-concurrent-jobs", str(args.jobs), "--max-sequences", str(args.max_sequences)]
        self._log = open(os.path.join(folder, "server.log"), "wb")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        words = dict(word.split("=", 1) for word in self._process.stdout.readline().split() if "=" in word)
        self._attune = [args.attune, "--server", words["grpc"]]
        while True:
            try:
                urllib.request.urlopen(f"http://{words['http']}/readyz", timeout=5)
                return
            except OSError:
                time.sleep(0.2)

    def attune(self, *arguments, **options):
        return subprocess.run([*self._attune, *arguments], check=True, text=True, stdout=subprocess.PIPE, **options).stdout

    def watch(self, *arguments):
        """Its lines as they come."""
        subprocess.run([*self._attune, *arguments], check=True)

    def stop(self):
        self._process.terminate()
        self._process.wait()
        self._log.close()


def upload(server, args, name, path):
    label = "category" if path.endswith(".csv") else "label"
    server.attune("datasets", "upload", path, "--id", name, "--template", args.template,
                  "--completion-template", args.completion_template or " {{%s}}" % label)


def compare(server, args, seed):
    """The finished comparison, and how long it took."""
    name = f"seed-{seed}"
    command = ["compare", "--base", "base", "--data", "train", "--name", name, "--seed", str(seed), "--trials",
               str(args.trials), "--max-tokens", str(args.max_tokens), "--watch"]
    if args.test:
        command += ["--test", "test", "--test-examples", str(args.test_examples)]
    for option, value in [("--methods", args.methods), ("--train-examples", args.train_examples), ("--metric", args.metric),
                          ("--max-answer-tokens", args.max_answer_tokens), ("--retention", args.retention and "kept")]:
        command += [option, str(value)] if value else []
    for option, is_set in [("--skip-side-effects", args.skip_side_effects), ("--learning-curve", args.learning_curve)]:
        command += [option] if is_set else []
    begin = time.monotonic()
    server.watch(*command)
    seconds = time.monotonic() - begin
    if args.output:
        server.attune("comparisons", "report", name, "--output", os.path.join(args.output, name + ".html"))
    return json.loads(server.attune("--json", "comparisons", "show", name)), seconds


def measures(result):
    return {measure["name"]: measure for measure in result.get("measures", [])}


def show(comparison, seconds):
    print(flush=True)
    print(f"\n{comparison['name']}: {comparison.get('train_examples')} to train, {comparison.get('validation_examples')} to "
          f"choose, {comparison.get('test_examples')} to test; {seconds / 60:.1f} min in all\n")
    print("| method | rank | quality | training s | peak MiB | energy kJ | MiB | ms a request | forgetting | lost of the retention set | "
          "divergence | consistency | overfitting |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for result in sorted(comparison["results"], key=lambda r: r.get("rank") or 99):
        figures = measures(result)
        value = lambda name, scale=1, digits=3: (f"{figures[name]['value'] / scale:.{digits}f}" if name in figures else "")
        quality = figures.get("quality")
        shown = f"{quality['value']:.3f} ({quality['lower']:.3f} to {quality['upper']:.3f})" if quality else result["state"]
        tied = " (tied)" if result.get("ties_best") else ""
        print(f"| {result['kind'].lower()} | {result.get('rank', '')}{tied} | {shown} | {value('search_seconds', 1, 0)} | "
              f"{value('training_memory', 1 << 20, 0)} | "
              f"{value('search_energy', 1000, 1)} | {value('model_bytes', 1 << 20, 2)} | "
              f"{value('request_milliseconds', 1, 1)} | {value('forgetting')} | {value('retention_loss')} | "
              f"{value('divergence')} | {value('consistency')} | {value('overfitting')} |")
    print(f"\n{comparison.get('verdict', '')}")


def kendall(first, second):
    """Kendall's tau-b of two lists."""
    concordant = discordant = ties_first = ties_second = 0
    for (a, b), (c, d) in itertools.combinations(zip(first, second), 2):
        x, y = (a > c) - (a < c), (b > d) - (b < d)
        concordant += x * y > 0
        discordant += x * y < 0
        ties_first += x == 0
        ties_second += y == 0
    pairs = len(first) * (len(first) - 1) / 2
    return (concordant - discordant) / ((pairs - ties_first) * (pairs - ties_second)) ** 0.5


def run_seed(args, seed, cpus):
    """A comparison by a server of its own, on those CPUs."""
    if cpus:
        subprocess.run(["taskset", "-p", "-c", cpus, str(threading.get_native_id())], check=True, stdout=subprocess.DEVNULL)
    if args.output:
        pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="attune_compare.")
    server = Server(args, folder)
    try:
        server.attune("models", "import", os.path.abspath(args.model), "--id", "base")
        upload(server, args, "train", args.train)
        for name, path in [("test", args.test), ("kept", args.retention)]:
            if path:
                upload(server, args, name, path)
        comparison, seconds = compare(server, args, seed)
        if args.output:
            pathlib.Path(args.output, f"seed-{seed}.json").write_text(json.dumps(comparison, indent=1))
        return comparison, seconds
    finally:
        server.stop()
        if args.output:
            shutil.copy(os.path.join(folder, "server.log"), os.path.join(args.output, f"seed-{seed}.log"))
        shutil.rmtree(folder)


def run_seeds(args):
    """Every seed's comparison; as many at once as there are sets of CPUs."""
    cpus = queue.Queue()
    for one in args.cpus or [""]:
        cpus.put(one)

    def run(seed):
        mine = cpus.get()
        try:
            return run_seed(args, seed, mine)
        finally:
            cpus.put(mine)

    with concurrent.futures.ThreadPoolExecutor(cpus.qsize()) as pool:
        yield from pool.map(run, range(1, args.seeds + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", default="", help="without: a part of the training rows")
    parser.add_argument("--methods", default="", help="default: all")
    parser.add_argument("--train-examples", type=int, default=0)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cpus", type=lambda text: text.split(";"), default=[],
                        help="sets of CPUs, e.g. '0,1;2,3': a seed runs on each at once")
    parser.add_argument("--test-examples", type=int, default=100000)
    parser.add_argument("--metric", default="", help="as of attune compare")
    parser.add_argument("--max-answer-tokens", type=int, default=0)
    parser.add_argument("--retention", default="", help="rows that must not be forgotten")
    parser.add_argument("--learning-curve", action="store_true")
    parser.add_argument("--template", default="Text: {{text}}\\nTopic:")
    parser.add_argument("--completion-template", default="", help="default: the label or category")
    parser.add_argument("--jobs", type=int, default=1, help="at once; more finish sooner, and their times say less")
    parser.add_argument("--max-sequences", type=int, default=64)
    parser.add_argument("--skip-side-effects", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="", help="folder for JSON and reports")
    parser.add_argument("--attuned", default=str(ROOT / "build/server/attuned"))
    parser.add_argument("--attune", default=str(ROOT / "build/client/attune"))
    args = parser.parse_args()
    qualities = []
    for comparison, seconds in run_seeds(args):
        show(comparison, seconds)
        qualities.append([measures(result).get("quality", {"value": -1})["value"] for result in comparison["results"]])
    taus = [kendall(a, b) for a, b in itertools.combinations(qualities, 2)]
    if taus:
        print(f"\nKendall's tau between the seeds: {', '.join(f'{tau:.2f}' for tau in taus)}; mean {sum(taus) / len(taus):.2f}")


if __name__ == "__main__":
    main()
