"""P-tuning adapters that PEFT trained: imported, served with PEFT's log-probabilities, and exported for PEFT again."""
import os
import shutil
import tempfile
import unittest

import miniatures
import peft
import torch
import transformers
from attune_server import Server, generation, model_service

VIRTUAL_TOKENS = 6
TOLERANCE = 1e-3


class PTuningTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.mkdtemp(prefix="attune_p_tuning.")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.exports = os.path.join(folder, "exports")
        os.makedirs(self.exports)
        self.server = Server(os.path.join(folder, "data"), ["--precision", "float32", "--export-root", self.exports,
                                                            "--import-root", self.exports]).start()
        self.addCleanup(self.server.terminate)

    def peft_adapter(self, base):
        """Of each kind of encoder, its embeddings far from those of any token."""
        for kind in ("MLP", "LSTM"):
            torch.manual_seed(5)
            config = peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS, encoder_hidden_size=24,
                                              encoder_reparameterization_type=kind)
            model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config).eval()
            path = os.path.join(self.exports, kind.lower())
            model.save_pretrained(path)
            yield kind.lower(), path, model

    @torch.no_grad()
    def check(self, model, name, tokens):
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1].double()
        ours = self.server.generate(f"models/{name}", prompt=generation.Prompt(token_ids=generation.TokenIds(ids=tokens)),
                                    max_tokens=1, ignore_eos=True, logprobs=True).completions[0]
        self.assertEqual(ours.token_ids[0], int(logits.argmax()))
        self.assertLess(abs(ours.logprobs[0].logprob - float(logits.log_softmax(0).max())), TOLERANCE)
        return logits

    def test_round_trip(self):
        backend = miniatures.byte_fallback_bpe(miniatures.sentencepiece_model())
        base = miniatures.random_model(os.path.join(self.exports, "base"), backend.get_vocab_size())
        miniatures.save_tokenizer(base, backend=backend)
        self.server.models.ImportModel(model_service.ImportModelRequest(source_path=base, model_id="base"))
        plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
        tokens = backend.encode("The capital of France is").ids
        without = self.check(plain, "base", tokens)
        for name, path, model in self.peft_adapter(base):
            with self.subTest(encoder=name):
                self.server.models.ImportModel(model_service.ImportModelRequest(
                    source_path=path, model_id=name, base_model="models/base"))
                expected = self.check(model, name, tokens)
                self.assertGreater((expected - without).abs().max(), 10 * TOLERANCE)
                exported = self.server.models.ExportModel(model_service.ExportModelRequest(
                    name=f"models/{name}", format=model_service.ExportModelRequest.PEFT, destination=f"{name}-again")).path
                again = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), exported).eval()
                with torch.no_grad():
                    found = again(input_ids=torch.tensor([tokens])).logits[0, -1].double()
                self.assertLess((found - expected).abs().max(), TOLERANCE)


if __name__ == "__main__":
    unittest.main()
