"""llama.cpp opens what Attune exports as GGUF, and says what Attune says.

ATTUNE_LLAMA_PYTHON names a Python that has llama-cpp-python (deploy/install-dependencies --llama makes one, which tests/run
uses), if that is not the one that runs this. Without one the tests are skipped.
"""
import json
import os
import shutil
import subprocess
import sys
import unittest

import exporting
import gguf
import miniatures
import sentencepiece
import transformers
from attune_server import lora_job, tuning_job
from exporting import Export

PYTHON = os.environ.get("ATTUNE_LLAMA_PYTHON", sys.executable)
PROMPTS = ["The capital of France is", "Text: What a lovely day number 3\nMood:", "def add(a, b):\n    return",
           "<|im_start|>user\nName 3 colours, 12345 caf\u00e9s \u4f60\u597d.<|im_end|>\n<|im_start|>assistant\n"]
NEW_TOKENS = 16
# Of tests/interop/families_reference.py.
MINIATURES = ["llama_biases", "mistral", "qwen2", "qwen2_yarn", "qwen3", "phi3", "gemma2", "gemma3"]
# Of a first token's log-probabilities; llama.cpp multiplies in F16 or, of Q8_0, in 8 bits.
TOLERANCE = {"f16": 0.05, "q8_0": 0.3}

# Reads prompts, texts, a number of tokens and a context as JSON; writes of each prompt its tokens, the likeliest answer, and the first
# token's log-probability, and of each text its tokens.
LLAMA = """
import json, sys
import numpy
from llama_cpp import Llama
prompts, texts, count, context = json.load(sys.stdin)
llama = Llama(sys.argv[1], n_ctx=context, n_batch=context, n_threads=2, logits_all=True, verbose=False)
out = []
for prompt in prompts:
    ids = llama.tokenize(prompt.encode(), add_bos=True, special=True)
    llama.reset()
    llama.eval(ids)
    answer, first = [], None
    for _ in range(count):
        logits = numpy.array(llama.scores[llama.n_tokens - 1], dtype=numpy.float64)
        token = int(logits.argmax())
        if first is None:
            first = float(logits[token] - logits.max() - numpy.log(numpy.exp(logits - logits.max()).sum()))
        answer.append(token)
        llama.eval([token])
    out.append({"ids": ids, "answer": answer, "logprob": first})
json.dump([out, [llama.tokenize(text.encode(), add_bos=True, special=True) for text in texts]], sys.stdout)
"""


def has_llama():
    if shutil.which(PYTHON) is None:
        return False
    return subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True, check=False).returncode == 0


@unittest.skipUnless(has_llama(), "no llama-cpp-python: see deploy/install-dependencies --llama")
class LlamaCppTest(exporting.ExportingTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.load_models_and_data()
        # A LoRA over each.
        for base in ("smollm2", "folder"):
            wanted = lora_job(tuned_model_id=f"tuned-{base}", base_model=f"models/{base}")
            job = cls.server.create_job(wanted, f"job-{base}")
            cls.server.watch(job.name)
            assert cls.server.get_job(job.name).state == tuning_job.TuningJob.SUCCEEDED, cls.server.log_tail()

    def compare(self, model, name, prompts=PROMPTS, texts=(), context=512):
        """The part of the answers' tokens that are the same before the first difference; all texts' tokens must be."""
        path = self.export(model, Export.GGUF_F16 if name == "f16" else Export.GGUF_Q8_0, f"{model}-{name}")
        tensors = {tensor.name for tensor in gguf.GGUFReader(os.path.join(path, "model.gguf")).tensors}
        self.assertLessEqual({"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight"}, tensors)
        done = subprocess.run([PYTHON, "-c", LLAMA, os.path.join(path, "model.gguf")], check=False, text=True,
                              input=json.dumps([prompts, texts, NEW_TOKENS, context]), capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        answers, ids = json.loads(done.stdout)
        for text, theirs in zip(texts, ids):
            self.assertEqual(self.tokens(model, text), theirs, (model, text))
        same = 0
        for prompt, theirs in zip(prompts, answers):
            tokens = self.tokens(model, prompt)
            self.assertEqual(tokens, theirs["ids"], prompt)
            ours = self.answer(model, tokens, NEW_TOKENS)
            self.assertLess(abs(ours.logprobs[0].logprob - theirs["logprob"]), TOLERANCE[name], prompt)
            answer = list(ours.token_ids)
            same += next((i for i, (a, b) in enumerate(zip(answer, theirs["answer"])) if a != b), NEW_TOKENS)
        print(f"  {model} {name}: {same} of {NEW_TOKENS * len(prompts)} tokens before a difference", flush=True)
        return same / (NEW_TOKENS * len(prompts))

    def test_sentencepiece_tokenizers(self):
        """SentencePiece's and byte-fallback BPE of folders: Llama 2's, Gemma's and Phi-3's kinds; 600 texts each."""
        model, plain = miniatures.sentencepiece_model(), miniatures.sentencepiece_model(False, ("\u2581\u2581", "\n", "\n\n", "<row>"))
        phi3 = {"kind": transformers.Phi3ForCausalLM, "config": transformers.Phi3Config}
        kinds = {"llama2-model": ({"model": model}, {}), "gemma-model": ({"model": plain}, {}),
                 "prepend-json": ({"backend": miniatures.byte_fallback_bpe(model)}, {}),
                 "plain-json": ({"backend": miniatures.byte_fallback_bpe(model, add_space_prefix=False)}, {}),
                 "phi3-json": ({"backend": miniatures.phi3_backend()}, phi3)}
        chats = ["<|user|>\n  Hi there<|end|>\n<|assistant|>\n", "<|user|> a<|endoftext|>  b</s>  c", "x<s>  y"]
        for name, (tokenizer, kind) in kinds.items():
            with self.subTest(name=name):
                backend = tokenizer.get("backend")
                size = backend.get_vocab_size() if backend else len(sentencepiece.SentencePieceProcessor(model_proto=tokenizer["model"]))
                folder = miniatures.random_model(os.path.join(self.exports, name), size + 5, **kind)
                miniatures.save_tokenizer(folder, **tokenizer)
                self.load(folder, name)
                self.assertGreater(self.compare(name, "f16", texts=list(miniatures.texts(600)) + chats[:3 if kind else 1]), 0.8)

    def long_prompts(self):
        """More tokens than the miniatures' original contexts, and fewer than 240."""
        return [" ".join(miniatures.texts(400)[start:start + 40])[:220] for start in range(60, 380, 80)]

    def check_scaled(self, name, scaling, context, **kind):
        """Rotary angles that are scaled are the same there, and others than without."""
        backend = miniatures.phi3_backend() if kind else miniatures.byte_fallback_bpe(miniatures.sentencepiece_model())
        prompts = self.long_prompts()
        first = {}
        for model, rope in ((name, scaling), (f"{name}-plain", {"rope_type": "default", "rope_theta": 10000.0})):
            more = dict(scaling.get("more", {})) if rope is scaling else {}
            parameters = {key: value for key, value in rope.items() if key != "more"}
            folder = miniatures.random_model(os.path.join(self.exports, model), backend.get_vocab_size(),
                                             rope_parameters=parameters, **more, **kind)
            miniatures.save_tokenizer(folder, backend=backend)
            self.load(folder, model)
            first[model] = [self.answer(model, self.tokens(model, prompt), 1).logprobs[0].logprob for prompt in prompts]
        self.assertGreater(max(abs(a - b) for a, b in zip(*first.values())), 2 * TOLERANCE["f16"], "the scaling does not matter")
        self.assertGreater(self.compare(name, "f16", prompts=prompts, context=context), 0.8)
        # Read back, the file's model is the folder's.
        self.load(os.path.join(self.exports, f"{name}-f16", "model.gguf"), f"{name}-again")
        for prompt, expected in zip(prompts, first[name]):
            found = self.answer(f"{name}-again", self.tokens(f"{name}-again", prompt), 1).logprobs[0].logprob
            self.assertLess(abs(found - expected), TOLERANCE["f16"], prompt)

    def test_llama3_scaling(self):
        """rope_freqs: prompts are longer than the original context, whose angles are stretched."""
        self.check_scaled("llama3-scaled", {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}, 512)

    def test_long_rope(self):
        """rope_factors_short, _long and the attention factor; within the original context, to which both are held."""
        self.check_scaled("phi3-longrope", {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0, 3.5],
            "long_factor": [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0],
            "more": {"original_max_position_embeddings": 256, "max_position_embeddings": 1024}}, 256,
            kind=transformers.Phi3ForCausalLM, config=transformers.Phi3Config)

    def test_random_miniatures(self):
        """A random model of each family in a shape that llama.cpp computes, too; prompts are longer than windows."""
        references = os.path.join(os.environ.get("ATTUNE_TEST_REFERENCES", ""), "families")
        if not os.path.isdir(references):
            self.skipTest("ATTUNE_TEST_REFERENCES names no folder of references")
        for family in MINIATURES:
            with self.subTest(family=family):
                name, source = family.replace("_", "-"), os.path.join(references, family, "base")
                base = shutil.copytree(source, os.path.join(self.exports, family))
                self.load(base, name)
                self.assertGreater(self.compare(name, "f16"), 0.8)

    def test_a_gguf_model_tuned(self):
        self.assertGreater(self.compare("tuned-smollm2", "f16"), 0.9)
        self.assertGreater(self.compare("tuned-smollm2", "q8_0"), 0.5)

    def test_gemma(self):
        self.load_gemma("gemma")
        self.assertGreater(self.compare("gemma", "f16"), 0.9)
        self.assertGreater(self.compare("gemma", "q8_0"), 0.5)

    def test_a_hugging_face_model_tuned(self):
        self.assertGreater(self.compare("tuned-folder", "f16"), 0.9)
        self.assertGreater(self.compare("tuned-folder", "q8_0"), 0.5)
