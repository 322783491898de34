"""P-tuning adapters that PEFT trained: imported, served with PEFT's log-probabilities, and exported for PEFT again."""
import os
import unittest

import exporting
import miniatures
import peft
import torch
import transformers
from exporting import Export

VIRTUAL_TOKENS = 6
TOLERANCE = 1e-3


class PTuningTest(exporting.ExportingTest):
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
        ours = self.answer(name, tokens, 1)
        self.assertEqual(ours.token_ids[0], int(logits.argmax()))
        self.assertLess(abs(ours.logprobs[0].logprob - float(logits.log_softmax(0).max())), TOLERANCE)
        return logits

    def test_round_trip(self):
        backend = miniatures.byte_fallback_bpe(miniatures.sentencepiece_model())
        base = miniatures.random_model(os.path.join(self.exports, "base"), backend.get_vocab_size())
        miniatures.save_tokenizer(base, backend=backend)
        self.load(base, "base")
        plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
        tokens = backend.encode("The capital of France is").ids
        without = self.check(plain, "base", tokens)
        for name, path, model in self.peft_adapter(base):
            with self.subTest(encoder=name):
                self.load(path, name, base_model="models/base")
                expected = self.check(model, name, tokens)
                self.assertGreater((expected - without).abs().max(), 10 * TOLERANCE)
                exported = self.export(name, Export.PEFT, f"{name}-again")
                again = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), exported).eval()
                with torch.no_grad():
                    found = again(input_ids=torch.tensor([tokens])).logits[0, -1].double()
                self.assertLess((found - expected).abs().max(), TOLERANCE)


if __name__ == "__main__":
    unittest.main()
