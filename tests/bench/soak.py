#!/usr/bin/env python3
"""Keeps a server on the CPU busy with everything at once, and looks whether it grows.

    tests/bench/soak.py [--minutes 60] [--clients 4] [--pause 0.02] [--write]

Needs what `tests/run` installs and build/server/attuned. A tiny random model is served and tuned:
answers of every kind (sampled, of a form, searched, guessed ahead, cancelled halfway, expired before
they begin), scores, labels, embeddings, wrong requests, and small LoRA jobs whose models are used and
deleted. Twice a minute the clients hold still: then no answer may run and no page of the KV cache be in use, and
memory, file handles and threads are noted. It fails if one of those grows between the first quarter
and the end. --write adds tests/bench/results/DATE-soak-cpu.md.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "n": {"type": "integer", "maximum": 99}},
                     "required": ["a", "n"], "additionalProperties": False})


def make_model(folder: pathlib.Path) -> None:
    """A random Llama with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from safetensors.torch import save_file
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|end|>", "<|start|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|start|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|start|>", "eos_token": "<|end|>"}))
    hidden, layers, heads, kv_heads, wide = 64, 2, 4, 2, 128
    (folder / "config.json").write_text(json.dumps(
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers,
         "hidden_size": hidden, "intermediate_size": wide, "num_attention_heads": heads,
         "num_key_value_heads": kv_heads, "vocab_size": len(vocabulary), "max_position_embeddings": 512,
         "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 0}))
    torch.manual_seed(3)
    shapes = {"model.embed_tokens.weight": (len(vocabulary), hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        stem, small = f"model.layers.{i}.", hidden // heads * kv_heads
        shapes.update({stem + "self_attn.q_proj.weight": (hidden, hidden), stem + "self_attn.k_proj.weight": (small, hidden),
                       stem + "self_attn.v_proj.weight": (small, hidden), stem + "self_attn.o_proj.weight": (hidden, hidden),
                       stem + "mlp.gate_proj.weight": (wide, hidden), stem + "mlp.up_proj.weight": (wide, hidden),
                       stem + "mlp.down_proj.weight": (hidden, wide), stem + "input_layernorm.weight": (hidden,),
                       stem + "post_attention_layernorm.weight": (hidden,)})
    save_file({name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * 0.2 for name, shape in shapes.items()},
              folder / "model.safetensors", metadata={"format": "pt"})


class Soak:
    def __init__(self, args, server, stubs):
        self.args, self.server, self.s = args, server, stubs
        self.counts, self.unexpected = {}, []
        self.lock = threading.Lock()
        self.open = threading.Event()
        self.open.set()
        self.ended = False
        self.busy = 0
        self.models = ["models/tiny"]

    # What a client may do. Each returns after the answer, or raises.

    def request(self, rng, **fields):
        g = self.s.generation
        text = rng.choice(["The same beginning, long enough for a page of the cache. ", ""]) * 2 + str(rng.random())
        return g.GenerateRequest(model=rng.choice(self.models), prompt=g.Prompt(text=text),
                                 max_tokens=rng.randint(1, 60), **fields)

    def sampled(self, rng):
        self.server.generation.Generate(self.request(
            rng, n=rng.randint(1, 4), sampling=self.s.generation.SamplingOptions(temperature=1.0, top_p=0.9),
            priority=rng.randint(-1, 1), tenant=rng.choice(["a", "b"])))

    def cancelled(self, rng):
        call = self.server.generation.StreamGenerate(self.request(rng, ignore_eos=True))
        for i, _ in enumerate(call):
            if i == 2:
                call.cancel()
                break

    def shaped(self, rng):
        g = self.s.generation
        form = rng.choice([g.StructuredOutput(json_schema=SCHEMA), g.StructuredOutput(regex="[a-f]{3,9}"),
                           g.StructuredOutput(choice=g.StructuredOutput.Choices(choices=["yes", "no"])),
                           g.StructuredOutput(regex=f"id-{rng.randint(0, 1000)}")])
        self.server.generation.Generate(self.request(rng, structured_output=form))

    def searched(self, rng):
        g = self.s.generation
        self.server.generation.Generate(self.request(rng, n=2, beam_search=g.BeamSearchOptions(beams=4)))

    def best(self, rng):
        self.server.generation.Generate(self.request(
            rng, best_of=4, sampling=self.s.generation.SamplingOptions(temperature=1.0)))

    def guessed(self, rng):
        g = self.s.generation
        speculative = g.SpeculativeOptions(draft_tokens=4, draft_model=rng.choice(["", "models/tiny"]))
        self.server.generation.Generate(self.request(rng, speculative=speculative, ignore_eos=True))

    def expired(self, rng):
        self.server.generation.Generate(self.request(rng), timeout=0.002)

    def wrong(self, rng):
        self.server.generation.Generate(self.request(rng, n=99))

    def labelled(self, rng):
        g = self.s.generation
        self.server.generation.Classify(g.ClassifyRequest(
            model=rng.choice(self.models), prompt=g.Prompt(text=str(rng.random())), choices=["glad", "sad", "so so"]))

    def embedded(self, rng):
        g = self.s.generation
        self.server.generation.Embed(g.EmbedRequest(
            model=rng.choice(self.models), inputs=[g.Prompt(text=str(rng.random())) for _ in range(rng.randint(1, 8))]))

    def client(self, number):
        import grpc
        rng = random.Random(number)
        fine = {"cancelled": grpc.StatusCode.CANCELLED, "expired": grpc.StatusCode.DEADLINE_EXCEEDED,
                "wrong": grpc.StatusCode.INVALID_ARGUMENT}
        names = ["sampled", "cancelled", "shaped", "searched", "best", "guessed", "expired", "wrong", "labelled", "embedded"]
        while not self.ended:
            self.open.wait()
            with self.lock:
                self.busy += 1
            name = rng.choice(names)
            try:
                getattr(self, name)(rng)
            except grpc.RpcError as error:
                # A model that was just deleted is one that a client may still ask for.
                gone = error.code() == grpc.StatusCode.NOT_FOUND
                if not gone and error.code() != fine.get(name):
                    with self.lock:
                        self.unexpected.append(f"{name}: {error.code()} {error.details()}")
            with self.lock:
                self.busy -= 1
                self.counts[name] = self.counts.get(name, 0) + 1
            time.sleep(self.args.pause)

    def tuner(self):
        """One small job after the other; each model is served for a while, then deleted."""
        number = 0
        while not self.ended:
            self.open.wait()
            with self.lock:
                self.busy += 1
            job = self.s.lora_job(base_model="models/tiny", tuned_model_id=f"tuned-{number}")
            name = self.server.create_job(job, f"job-{number}").name
            self.server.watch(name)
            done = self.server.get_job(name)
            if done.state != self.s.tuning_job.TuningJob.SUCCEEDED:
                self.unexpected.append(f"job: {done.state} {done.error}")
            self.models = ["models/tiny", f"models/tuned-{number}"]
            with self.lock:
                self.busy -= 1
                self.counts["tuned"] = self.counts.get("tuned", 0) + 1
            time.sleep(5)
            self.models = ["models/tiny"]
            self.server.models.DeleteModel(self.s.model_service.DeleteModelRequest(name=f"models/tuned-{number}"))
            self.server.tuning.DeleteTuningJob(self.s.tuning_service.DeleteTuningJobRequest(name=name))
            number += 1

    def metric(self, name) -> float:
        lines = self.server.get("/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def sample(self) -> dict:
        """With all clients still."""
        self.open.clear()
        while self.busy > 0:
            time.sleep(0.01)
        for _ in range(500):  # answers that were cancelled last are taken out by the next step
            if self.metric("attune_num_requests_running") == 0 and self.metric("attune_kv_cache_usage_perc") == 0:
                break
            time.sleep(0.01)
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        value = lambda key: int(next(line for line in status.splitlines() if line.startswith(key)).split()[1])
        taken = {"rss_mib": value("VmRSS:") / 1024, "threads": value("Threads:"),
                 "files": len(os.listdir(f"/proc/{self.server.process.pid}/fd")),
                 "running": self.metric("attune_num_requests_running"), "pages": self.metric("attune_kv_cache_usage_perc"),
                 "requests": sum(self.counts.values())}
        self.open.set()
        return taken

    def run(self) -> list:
        threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(self.args.clients)]
        threads.append(threading.Thread(target=self.tuner, daemon=True))
        for thread in threads:
            thread.start()
        start, samples = time.monotonic(), []
        while (passed := time.monotonic() - start) < self.args.minutes * 60:
            time.sleep(min(30.0, self.args.minutes * 60 / 20))
            samples.append({"minute": (time.monotonic() - start) / 60, **self.sample()})
            print(" ".join(f"{key} {number:.1f}" for key, number in samples[-1].items()), flush=True)
        self.ended = True
        for thread in threads:
            thread.join(60)
        return samples


def verdict(samples: list, unexpected: list) -> list:
    """What is wrong; nothing if all is well. Halves of what comes after the first quarter are compared."""
    later = samples[len(samples) // 4:]
    half = len(later) // 2
    wrong = [f"{len(unexpected)} unexpected errors, e.g. {unexpected[0]}"] if unexpected else []
    for key, allowed in (("rss_mib", 1.02), ("files", 1.0), ("threads", 1.1)):
        before, after = (statistics.median(sample[key] for sample in part) for part in (later[:half], later[half:]))
        if after > before * allowed:
            wrong.append(f"{key} grew from {before:.1f} to {after:.1f}")
    for key in ("running", "pages"):
        if any(sample[key] > 0 for sample in samples):
            wrong.append(f"{key} left when all clients were still")
    return wrong


def report(args, samples: list, soak: Soak, wrong: list) -> str:
    picked = samples[::max(1, len(samples) // 12)]
    lines = [f"# A soak on the CPU, {datetime.date.today()}", "",
             f"{args.minutes:g} minutes, {args.clients} clients and small jobs one after the other over a tiny model; "
             "`tests/bench/soak.py --write` makes this file.",
             "Requests: " + ", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items())) + ".", "",
             "| minute | requests | memory, MiB | file handles | threads | answers running | KV pages in use |",
             "|---|---|---|---|---|---|---|"]
    for s in picked:
        lines.append(f"| {s['minute']:.1f} | {s['requests']} | {s['rss_mib']:.1f} | {s['files']} | {s['threads']} | "
                     f"{s['running']:.0f} | {s['pages']:.0f} |")
    lines += ["", "Result: " + ("; ".join(wrong) if wrong else "nothing grew after the first quarter, and nothing was left behind.")]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between a client's requests")
    parser.add_argument("--write", action="store_true", help="add a results file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attune_soak.") as folder:
        model = pathlib.Path(folder) / "import/tiny"
        make_model(model)
        os.environ["ATTUNE_TEST_MODEL"] = str(model)
        sys.path.insert(0, str(SOURCE / "tests/integration"))
        import attune_server as stubs
        server = stubs.Server(os.path.join(folder, "data"), ["--kv-tokens", "2048", "--max-sequences", "12", "--threads", "1"]).start()
        try:
            server.import_model("tiny")
            server.upload("mood", stubs.mood_rows(60), **stubs.MOOD)
            soak = Soak(args, server, stubs)
            samples = soak.run()
        finally:
            status = server.terminate()
    wrong = verdict(samples, soak.unexpected) + ([f"the server ended with {status}"] if status else [])
    text = report(args, samples, soak, wrong)
    print(text)
    if args.write:
        (SOURCE / f"tests/bench/results/{datetime.date.today()}-soak-cpu.md").write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
