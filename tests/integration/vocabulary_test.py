"""LoRAs that train or adapt embedding and head of a real model: PEFT opens what is exported, and it says what the server says."""
import json
import os
import unittest

import exporting
import grpc
import torch
from attune_server import Error, generation, lora_job, tuning_job, tuning_service
from exporting import Export
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

State = tuning_job.TuningJob
WHOLE = [tuning_job.EMBED_TOKENS, tuning_job.LM_HEAD]
PROMPTS = ["Text: What a dreadful day\nMood:", "The capital of France is", "def add(a, b):\n    return"]
CONTINUATIONS = [" sad", " glad and bright", " Paris, of course."]
TOLERANCE = 1e-3


class VocabularyTest(exporting.ExportingTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.base = cls.load_models_and_data()

    @staticmethod
    def job(output, **lora):
        return lora_job(base_model="models/folder", tuned_model_id=output, lora=tuning_job.LoraTuning(rank=4, **lora))

    def tune(self, output, **fields):
        """Trains; the folder that PEFT opens, and the tensors in it."""
        wanted = self.job(output, **fields)
        estimate = self.server.tuning.EstimateTuningJob(tuning_service.EstimateTuningJobRequest(tuning_job=wanted))
        name = self.server.create_job(wanted, f"job-{output}").name
        self.server.watch(name)
        done = self.server.get_job(name)
        self.assertEqual(done.state, State.SUCCEEDED, (done, self.server.log_tail()))
        ratio = estimate.peak_memory_bytes / done.progress.peak_memory_bytes
        print(f"  {output}: {estimate.trainable_parameters} parameters, {done.progress.peak_memory_bytes / 1e6:.0f} MB "
              f"measured, {estimate.peak_memory_bytes / 1e6:.0f} MB estimated", flush=True)
        self.assertAlmostEqual(ratio, 1, delta=0.1)
        path = self.export(output, Export.PEFT, output)
        return path, load_file(os.path.join(path, "adapter_model.safetensors"))

    def largest_difference(self, output, path):
        """Of a token's log-probability between PEFT and the server."""
        base = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, path).eval()
        worst = 0
        for prompt in PROMPTS:
            given = generation.Prompt(text=prompt)
            ids = self.tokens(output, prompt)
            scores = self.server.generation.Score(generation.ScoreRequest(
                model=f"models/{output}", prompt=given, continuations=CONTINUATIONS)).scores
            for score in scores:
                answer = [token.token_id for token in score.tokens]
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids + answer])).logits[0].float()
                theirs = torch.log_softmax(logits[len(ids) - 1:-1], -1)[range(len(answer)), answer]
                worst = max(worst, (theirs - torch.tensor([token.logprob for token in score.tokens])).abs().max().item())
        print(f"  {output}: log-probabilities differ from PEFT's by {worst:.2g} at most", flush=True)
        return worst

    def test_trained_whole(self):
        path, tensors = self.tune("saved", modules_to_save=WHOLE)
        with open(os.path.join(path, "adapter_config.json"), encoding="utf-8") as file:
            self.assertEqual(sorted(json.load(file)["modules_to_save"]), ["embed_tokens", "lm_head"])
        table = load_file(os.path.join(self.base, "model.safetensors"))["model.embed_tokens.weight"].float()
        embedding = tensors["base_model.model.model.embed_tokens.weight"]
        head = tensors["base_model.model.lm_head.weight"]
        self.assertEqual(embedding.shape, table.shape)
        # Tokens that occur have moved, others' rows are as they were; a head learns of all tokens.
        moved = (embedding - table).abs().amax(1)
        self.assertGreater((moved > 0).sum().item(), 10)
        self.assertLess((moved > 0).sum().item(), 500)
        self.assertGreater(((head - table).abs().amax(1) > 0).float().mean().item(), 0.9)
        self.assertLess(self.largest_difference("saved", path), TOLERANCE)

    def test_adapted(self):
        path, tensors = self.tune("adapted", target_modules=[tuning_job.Q_PROJ, *WHOLE])
        self.assertGreater(tensors["base_model.model.model.embed_tokens.lora_embedding_A"].abs().max().item(), 0)
        self.assertGreater(tensors["base_model.model.lm_head.lora_B.weight"].abs().max().item(), 0)
        self.assertLess(self.largest_difference("adapted", path), TOLERANCE)

    def test_what_cannot_be_is_refused_by_name(self):
        for field, lora in [("modules_to_save", {"modules_to_save": [tuning_job.V_PROJ]}),
                            ("modules_to_save", {"modules_to_save": WHOLE, "target_modules": WHOLE[1:]}),
                            ("use_dora", {"target_modules": WHOLE, "use_dora": True}),
                            ("learning_rate_ratio", {"target_modules": WHOLE, "learning_rate_ratio": 4})]:
            with self.assertRaises(grpc.RpcError) as context:
                self.server.create_job(self.job("wrong", **lora))
            error = Error(context.exception)
            self.assertEqual((error.code, set(error.fields)),
                             (grpc.StatusCode.INVALID_ARGUMENT, {f"tuning_job.lora.{field}"}), error)


if __name__ == "__main__":
    unittest.main()
